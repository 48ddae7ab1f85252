"""Which segments the thinking of an example is made of."""

from types import SimpleNamespace

from ieat_jax.data.injection import InjectionConfig
from ieat_jax.data.records import parse_record
from ieat_jax.packing.rows import TurnMaker

TURN = {
    "turn_id": 1,
    "text": "I lost my keys.",
    "emotion": "sad",
    "response_text": "I am sorry.",
    "ieat": {"cause": {"text": "I lost my keys"}, "response": {"emotion": "comfort"}},
}
RECORD = parse_record({"dialogue_id": "d", "turns": [TURN]})


def thinking_with(tmp_path, example=3, **settings):
    recipe = SimpleNamespace(
        chat=SimpleNamespace(thinks=True),
        injection=InjectionConfig(**settings),
        options=SimpleNamespace(speech=False),
        user="text",
        privileged=True,
        seed=0,
    )
    return TurnMaker(recipe).turn(RECORD, 0, tmp_path, example).thinking


def test_only_the_named_segments_are_shown_and_they_are_worded_as_before(tmp_path):
    everything = thinking_with(tmp_path, mode="explicit")
    assert list(everything) == ["perceive", "state", "cause", "plan"]
    assert thinking_with(tmp_path, mode="explicit", segments=("state",)) == {"state": everything["state"]}
    assert list(thinking_with(tmp_path, mode="explicit", segments=("cause", "state"))) == ["state", "cause"]


def test_thinking_of_nothing_known_is_empty(tmp_path):
    assert thinking_with(tmp_path, mode="explicit", segments=("trajectory",)) == {}
