"""The words of the demo corpus: our own templates, about 500 English words, and a smaller Chinese set for text.

*Carriers* are sentences that say nothing about feelings and are spoken in all six prosody classes. *Causes* are
sentences that state why somebody feels something. Replies are an opener that only one emotion has, and a closer.
"""

from dataclasses import dataclass

EMOTIONS = ("neutral", "happy", "sad", "anger", "fear", "surprise")

# Style in which the assistant answers each emotion.
RESPONSE_STYLE = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "comfort",
    "anger": "comfort",
    "fear": "encourage",
    "surprise": "surprise",
}

PLACES = {
    "en": ["kitchen", "office", "station", "library", "market", "garden", "school", "museum"],
    "zh": ["厨房", "办公室", "车站", "图书馆", "市场", "花园", "学校", "博物馆"],
}
THINGS = {
    "en": ["bag", "book", "phone", "letter", "box", "ticket", "coat", "map"],
    "zh": ["包", "书", "手机", "信", "盒子", "票", "外套", "地图"],
}
TIMES = {
    "en": ["this morning", "tonight", "after lunch", "on Monday", "on Friday", "at seven"],
    "zh": ["今天早上", "今天晚上", "午饭后", "星期一", "星期五", "七点钟"],
}

# Sentence frames; no frame of one split occurs in another, so every test sentence is new.
CARRIERS = {
    "train": [
        "I am going to the {place} {time}.",
        "The {thing} is on the table.",
        "We talked about the {thing} {time}.",
        "My sister is at the {place}.",
        "I put the {thing} near the door.",
        "They will bring the {thing} {time}.",
        "The {place} opens {time}.",
        "I saw your brother at the {place}.",
        "She gave me the {thing} {time}.",
        "We walked from the {place} to the {place2}.",
        "There is a {thing} in the {place}.",
        "He left the {thing} at the {place}.",
        "I will call you from the {place}.",
        "The {thing} came {time}.",
        "You can find the {thing} in the {place}.",
        "My teacher works at the {place}.",
        "I need the {thing} {time}.",
        "The bus stops behind the {place}.",
        "We have a {thing} and a {thing2}.",
        "Somebody is waiting at the {place}.",
        "I read about the {place} {time}.",
        "The {thing} belongs to my brother.",
        "They moved the {thing} to the {place}.",
        "I will be in the {place} {time}.",
        "The color of the {thing} is green.",
        "My friend has the same {thing}.",
        "The road to the {place} is long.",
        "We met near the {place} {time}.",
        "I have the {thing} with me.",
        "She wrote about the {place}.",
        "The window of the {place} is open.",
        "I took the {thing} out of the {thing2}.",
    ],
    "validation": [
        "The {thing} is next to the {thing2}.",
        "He works in the {place} {time}.",
        "I came back from the {place}.",
        "My brother wants the {thing}.",
    ],
    "test": [
        "I found the {thing} at the {place}.",
        "She is in the {place} with my sister.",
        "You will see the {place} {time}.",
        "They gave the {thing} to my teacher.",
        "My friend walked to the {place}.",
        "The {thing} is in my {thing2}.",
        "We will open the {thing} {time}.",
        "I left the {place} {time}.",
    ],
}
CARRIERS_ZH = [
    "我{time}要去{place}。",
    "{thing}在桌子上。",
    "我们{time}谈了{thing}。",
    "我姐姐在{place}。",
    "我把{thing}放在门旁边。",
    "他把{thing}留在了{place}。",
    "我在{place}给你打电话。",
    "{place}里有一个{thing}。",
]

OPENERS = {
    "en": {
        "neutral": ["Okay, I see.", "All right.", "Thank you for telling me."],
        "happy": ["That sounds wonderful!", "I love hearing that!", "Great, you sound so happy!"],
        "sad": ["I'm so sorry.", "I hear how sad you are.", "Oh, that must hurt."],
        "anger": ["I understand you are upset.", "You have every right to be angry.", "Let us slow down together."],
        "fear": ["Don't worry, you are safe.", "You are braver than you think.", "I know it feels scary."],
        "surprise": ["Wow, really?", "Oh, I did not expect that!", "What a surprise!"],
    },
    "zh": {
        "neutral": ["好的，我知道了。", "嗯，明白了。", "谢谢你告诉我。"],
        "happy": ["听起来太棒了！", "真为你高兴！", "太好了！"],
        "sad": ["我很难过听到这个。", "我听得出你很伤心。", "这一定很难受。"],
        "anger": ["我理解你很生气。", "你生气是应该的。", "我们先慢慢来。"],
        "fear": ["别担心，你很安全。", "你比想象中勇敢。", "我知道这很可怕。"],
        "surprise": ["哇，真的吗？", "哦，我没想到！", "真让人吃惊！"],
    },
}
CLOSERS = {
    "en": {
        "neutral": ["What is next?", "Do you need anything else?", "Tell me more about the {topic}."],
        "happy": ["Tell me everything!", "Enjoy every minute!", "The {topic} made your day!"],
        "sad": ["I am here with you.", "Take all the time you need.", "We can leave the {topic} for later."],
        "anger": ["Take a slow breath.", "We will fix it step by step.", "Tell me what happened with the {topic}."],
        "fear": ["We can do this together.", "I will stay with you.", "The {topic} cannot hurt you."],
        "surprise": ["How did that happen?", "Tell me the whole story!", "Was it about the {topic}?"],
    },
    "zh": {
        "neutral": ["接下来呢？", "还需要什么吗？", "再说说{topic}吧。"],
        "happy": ["快都告诉我！", "好好享受吧！", "{topic}让你很开心！"],
        "sad": ["我在这里陪你。", "慢慢来，不着急。", "{topic}的事可以以后再说。"],
        "anger": ["先慢慢呼吸。", "我们一步一步解决。", "告诉我{topic}怎么了。"],
        "fear": ["我们一起面对。", "我会陪着你。", "{topic}不会伤害你。"],
        "surprise": ["怎么会这样？", "快讲给我听！", "是关于{topic}的吗？"],
    },
}


@dataclass(frozen=True)
class Cause:
    """A sentence that states why, the part of it that is the cause, and a closer for the reply."""

    text: str
    quote: str
    closer: str


# Per emotion; of each list the last two are kept for test and the one before them for validation.
CAUSES = {
    "en": {
        "neutral": [
            Cause("I bought some bread this morning.", "bought some bread", "Bread is always useful."),
            Cause("I changed the time of my lesson.", "changed the time of my lesson", "I will remember the new time."),
            Cause("I cleaned my room today.", "cleaned my room", "Now your room is ready."),
            Cause("I moved my desk to the window.", "moved my desk to the window", "More light helps you work."),
            Cause("I washed my green coat today.", "washed my green coat", "It will be dry tonight."),
            Cause("I sent the letter on Monday.", "sent the letter", "It should come on Friday."),
        ],
        "happy": [
            Cause("I won the first prize today!", "won the first prize", "You worked hard for that prize!"),
            Cause("I got the job at the museum!", "got the job", "They are lucky to have you!"),
            Cause("My best friend is coming tonight!", "My best friend is coming", "Have a great night together!"),
            Cause("We are going to the sea on Friday!", "going to the sea", "The sea will be beautiful!"),
            Cause("I passed my test this morning!", "passed my test", "You earned it!"),
            Cause("My sister had a baby today!", "My sister had a baby", "Welcome to the little one!"),
        ],
        "sad": [
            Cause("I lost my keys this morning.", "lost my keys", "We can look for the keys together."),
            Cause("My dog died on Monday.", "My dog died", "Your dog was loved."),
            Cause("I failed my test today.", "failed my test", "One test does not decide your life."),
            Cause("My best friend moved away.", "My best friend moved away", "You can still call your friend."),
            Cause("I broke the cup from my mother.", "broke the cup from my mother", "She will understand."),
            Cause("My team lost the last game.", "My team lost the last game", "There will be another game."),
        ],
        "anger": [
            Cause("They sold my seat to somebody else.", "sold my seat", "We will ask for your seat."),
            Cause("My boss blamed me for his mistake.", "blamed me for his mistake", "That was not fair."),
            Cause("Somebody took my bag at the station.", "took my bag", "We will call the station now."),
            Cause("He told everybody my secret.", "told everybody my secret", "He should have kept it."),
            Cause("My neighbor broke my window again.", "broke my window", "You can talk to him calmly."),
            Cause("She never pays me back.", "never pays me back", "You can ask for it clearly."),
        ],
        "fear": [
            Cause("I hear somebody walking in the garden.", "somebody walking in the garden", "Lock the door first."),
            Cause("I have to fly alone tonight.", "fly alone", "Many people feel this before flying."),
            Cause("I cannot find my little brother.", "cannot find my little brother", "We will look for him now."),
            Cause("There is smoke in the kitchen.", "smoke in the kitchen", "Go outside and call for help."),
            Cause("A big dog followed me home.", "big dog followed me", "You are home now."),
            Cause("I must speak in front of everybody.", "speak in front of everybody", "Start with one slow breath."),
        ],
        "surprise": [
            Cause("My old teacher called me today!", "My old teacher called me", "After so many years!"),
            Cause("I found money in my old coat!", "found money in my old coat", "That is a good coat!"),
            Cause("There is snow in the garden!", "snow in the garden", "Nobody told us about snow!"),
            Cause("They gave me a car for nothing!", "gave me a car for nothing", "Who gives a car away?"),
            Cause("My cat came back after a year!", "My cat came back", "Where was she all year?"),
            Cause("I met my boss at the sea!", "met my boss at the sea", "The world is small!"),
        ],
    },
    "zh": {
        "neutral": [
            Cause("我早上买了面包。", "买了面包", "面包总是有用的。"),
            Cause("我今天打扫了房间。", "打扫了房间", "房间干净了。"),
        ],
        "happy": [
            Cause("我今天得了一等奖！", "得了一等奖", "你一直很努力！"),
            Cause("我找到新工作了！", "找到新工作", "他们真幸运！"),
        ],
        "sad": [
            Cause("我早上丢了钥匙。", "丢了钥匙", "我们一起找钥匙。"),
            Cause("我这次考试没考好。", "考试没考好", "一次考试不算什么。"),
        ],
        "anger": [
            Cause("他们把我的座位卖给别人了。", "把我的座位卖给别人", "我们去问清楚。"),
            Cause("老板把他的错怪在我头上。", "把他的错怪在我头上", "这不公平。"),
        ],
        "fear": [
            Cause("我听见花园里有人在走。", "花园里有人在走", "先把门锁好。"),
            Cause("我今晚要一个人坐飞机。", "一个人坐飞机", "很多人都会这样。"),
        ],
        "surprise": [
            Cause("老师今天突然给我打电话！", "老师今天突然给我打电话", "过了这么多年！"),
            Cause("我在旧外套里找到了钱！", "在旧外套里找到了钱", "真是好外套！"),
        ],
    },
}

TONES = {
    "en": {
        "neutral": ["an even voice", "a plain and steady voice"],
        "happy": ["a bright and lively voice", "a high and quick voice"],
        "sad": ["a slow and low voice", "a soft and flat voice"],
        "anger": ["a loud and hard voice", "a sharp and strong voice"],
        "fear": ["a high and shaking voice", "a thin and trembling voice"],
        "surprise": ["a voice that jumps up", "a voice that rises at the end"],
    },
    "zh": {
        "neutral": ["平稳的声音"],
        "happy": ["明亮轻快的声音"],
        "sad": ["又慢又低的声音"],
        "anger": ["又响又硬的声音"],
        "fear": ["又高又发抖的声音"],
        "surprise": ["突然升高的声音"],
    },
}


def style_of(text: str) -> str | None:
    """Response style of a reply by its opener, or None when no opener of the pools begins it."""
    for pools in OPENERS.values():
        for emotion, openers in pools.items():
            if any(text.strip().startswith(opener) for opener in openers):
                return RESPONSE_STYLE[emotion]
    return None
