"""Intelligible speech: what Whisper hears of a spoken reply against the text that the model wrote for it."""

from typing import Any

from ieat_jax.audio.files import MIN_SECONDS, SAMPLE_RATE
from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.statistics import proportion
from ieat_jax.evaluation.words import error_rate, language_of, normalise, without_spaces


def speech(predictions: Predictions) -> dict[str, Any]:
    """Word error rate, and character error rate (`cer`) where a reply's language is written without spaces.

    A reply of text without sound counts as all wrong; one without text is left out.
    """
    said = {index: predictions.answers[index].reply for index in predictions.spoken}
    heard = {index: predictions.transcripts[index] for index, reply in said.items() if reply.text}
    languages = {index: language_of(said[index].text, predictions.items[index].language) for index in heard}
    silent = sum(len(said[index].waveform) < MIN_SECONDS * SAMPLE_RATE for index in heard)

    def rate(indices: list[int]) -> float:
        texts = [(said[index].text, heard[index], languages[index]) for index in indices]
        if not any(normalise(text, language) for text, _, language in texts):
            return float("nan")
        return error_rate(*zip(*texts, strict=True))

    words = [index for index in heard if not without_spaces(languages[index])]
    characters = [index for index in heard if without_spaces(languages[index])]
    figures: dict[str, Any] = {"wer": rate(words), "n": len(words)}
    if characters:
        figures |= {"cer": rate(characters), "cer_n": len(characters)}
    ended = proportion([reply.speech_ended for reply in said.values()])
    return {"speech": figures | {"silent": silent, "ended": ended}}


MEASURE = Measure(
    name="speech",
    order=70,
    measure=speech,
    needs=frozenset({"speech", "transcripts"}),
    rows=(
        Row("Word error rate of the spoken reply", ("speech", "wer"), "down", "Whisper on n = {speech.n} replies"),
        Row(
            "Character error rate of the spoken reply",
            ("speech", "cer"),
            "down",
            "languages without spaces; Whisper on n = {speech.cer_n} replies",
        ),
    ),
    method=(
        "Word error rate compares Whisper's transcript of the spoken reply with the text the model wrote for it; in "
        "languages that are written without spaces the characters are compared."
    ),
)
