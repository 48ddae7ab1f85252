import numpy as np

from ieat_jax.evaluation.asr import WhisperASR


class Noting:
    """Whisper's model, with the prompts that it is given."""

    def __init__(self, model):
        self.model, self.prompts = model, []

    def generate(self, view, prompts, **options):
        self.prompts += prompts
        return self.model.generate(view, prompts, **options)

    def detect_language(self, view):
        return self.model.detect_language(view)


def test_every_clip_is_heard_in_its_language_and_an_unknown_one_is_found_out():
    whisper = WhisperASR(threads=1)
    whisper._model = noting = Noting(whisper._model)
    noise = [np.random.default_rng(n).normal(size=8000).astype(np.float32) / 10 for n in range(3)]
    told = []
    assert len(whisper.transcribe(noise, ["en", "zh", "xx"], batch_size=3, done=told.append)) == 3
    assert told == [3]
    languages = [prompt[1] for prompt in noting.prompts]
    assert languages[:2] == ["<|en|>", "<|zh|>"]
    assert whisper._tokenizer.token_to_id(languages[2]) is not None
    assert len(whisper.transcribe(noise[:1], ["de"])) == 1
    assert noting.prompts[-1][1] == "<|de|>"
