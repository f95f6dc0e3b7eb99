"""Captions show the right words at the right time, in any writing system, for any length of recording."""

import re
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from lipsync_server.engines.ask import Ask, check_captions
from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.align import _path, align
from lipsync_server.media.captions.cues import LONGEST_S, Shape, cues_of, width_of
from lipsync_server.media.captions.japanese import with_readings
from lipsync_server.media.captions.numbers_aloud import said
from lipsync_server.media.captions.script import Word, candidate_languages, is_right_to_left, words_of
from lipsync_server.media.captions.spoken_words import speak
from lipsync_server.media.captions.subtitles import srt, vtt
from lipsync_server.media.captions.text_language import language_of
from lipsync_server.media.info import HeardScript, HeardWord
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.workers.rendering.captions import VideoCaptions

ENGLISH = (
    "The flight was twelve hours long, and we really got bored. They only played two movies, which we had both "
    "already seen. I never get to sleep on the airplane because it is so uncomfortable."
)
PORTUGUESE = (
    "Tenho um problema com o meu purificador de água. O nível da água está sempre muito alto. É o único dia da semana "
    "que eu tenho livre, e agradeço muito se puder confirmar por escrito."
)
MANDARIN = "你好，这是用照片做的视频。做起来非常简单，我们一起试试吧。"
JAPANESE = "こんにちは、これは写真から作られた動画です。とても簡単に作れますよ。"


def heard_words(n: int, *, each_s: float = 0.3, pause_after: int | None = None) -> list[HeardWord]:
    words, at = [], 0.0
    for i in range(n):
        words.append(HeardWord(f"word{i}", True, at, at + each_s))
        at += each_s + (2.0 if i == pause_after else 0.0)
    return words


def read_aloud(
    text: str, language: str, *, pauses_s: tuple[tuple[int, float], ...] = (), words: list[Word] | None = None
) -> tuple[Speech, list[float]]:
    """A recording of `text` unlike the voice that the aligner uses: slower, higher, with noise, and with pauses before
    the words of the given numbers. Also the true start of each word."""
    words = words or words_of(text)
    spoken = speak([word.spoken for word in words], language)
    stretched = 1.17
    positions = np.arange(0, len(spoken.samples) - 1, 1 / stretched)
    samples = np.interp(positions, np.arange(len(spoken.samples)), spoken.samples).astype(np.float32)
    starts = spoken.starts_s[:-1] * stretched
    for number, pause_s in sorted(pauses_s, reverse=True):
        cut = round(starts[number] * SPEECH_RATE_HZ)
        samples = np.concatenate([samples[:cut], np.zeros(round(pause_s * SPEECH_RATE_HZ), np.float32), samples[cut:]])
        starts[number:] += pause_s
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return 0.5 * samples + 0.001 * noise, starts.tolist()


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (PORTUGUESE, "pt-BR"), (MANDARIN, "cmn")])
def test_each_word_of_a_script_is_found_where_it_is_spoken(text: str, language: str) -> None:
    speech, truth = read_aloud(text, language, pauses_s=((0, 1.5), (9, 0.8)))
    heard = align(words_of(text), speech, language)
    errors_s = np.abs(np.array([word.start_s for word in heard.words]) - truth)
    assert heard.fits
    assert np.median(errors_s) < 0.08
    assert np.percentile(errors_s, 90) < 0.2


def test_a_long_recording_is_timed_in_pieces_as_well_as_a_short_one() -> None:
    text = " ".join([ENGLISH] * 8)
    speech, truth = read_aloud(text, "en", pauses_s=((40, 3.0), (120, 5.0)))
    assert len(speech) > 80 * SPEECH_RATE_HZ
    heard = align(words_of(text), speech, "en")
    errors_s = np.abs(np.array([word.start_s for word in heard.words]) - truth)
    assert np.median(errors_s) < 0.08
    assert np.percentile(errors_s, 90) < 0.2
    assert all(before.start_s <= after.start_s for before, after in pairwise(heard.words))


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (PORTUGUESE, "pt-BR")])
def test_the_language_of_a_script_is_found_by_listening(text: str, language: str) -> None:
    speech, _ = read_aloud(text, language)
    assert align(words_of(text), speech, None).language == language


def test_a_script_of_other_words_is_warned_about() -> None:
    samples, rate_hz = soundfile.read(SAMPLES_DIR / "speech.wav", dtype="float32")
    speech = samples[:: rate_hz // SPEECH_RATE_HZ]
    right = (
        "Hello! I used to be a still picture. Now give me any recording of a voice, and I will say it for you, on your "
        "own machine."
    )
    assert align(words_of(right), speech, "en").fits
    assert not align(words_of(PORTUGUESE), speech, "en").fits


def test_times_stay_inside_a_recording_that_is_silent_or_very_short() -> None:
    for speech in (np.zeros(SPEECH_RATE_HZ, np.float32), np.zeros(200, np.float32), np.full(8000, np.nan, np.float32)):
        heard = align(words_of("One two three"), speech, "en")
        end_s = len(speech) / SPEECH_RATE_HZ
        assert [word.text for word in heard.words] == ["One", "two", "three"]
        assert all(0 <= word.start_s <= word.end_s <= end_s for word in heard.words)


def test_the_path_of_least_difference_equals_the_best_of_all_paths() -> None:
    rng = np.random.default_rng(1)
    for n, m in ((1, 1), (1, 5), (5, 1), (4, 6), (6, 4)):
        model, heard = (rng.standard_normal((3, k)).astype(np.float32) for k in (n, m))
        model, heard = model / np.linalg.norm(model, axis=0), heard / np.linalg.norm(heard, axis=0)
        cost = 1 - model.T @ heard

        def least(row: int, column: int, cost: np.ndarray = cost) -> float:
            if row == column == 0:
                return float(cost[0, 0])
            before = [least(row - dr, column - dc) for dr, dc in ((1, 1), (1, 0), (0, 1)) if row >= dr and column >= dc]
            return float(cost[row, column]) + min(before)

        path, mean = _path(model, heard)
        assert mean * (n + m) == pytest.approx(least(n - 1, m - 1), rel=1e-5)
        assert sum(cost[row, column] for row, column in path) == pytest.approx(least(n - 1, m - 1), rel=1e-5)


def test_marks_that_are_not_spoken_stay_out_of_the_captions() -> None:
    words = words_of("Hello — world! <break time='1s'/> [whispers] Ok… 😀 done .")
    assert [word.text for word in words] == ["Hello —", "world!", "Ok… 😀", "done ."]
    assert [word.spoken for word in words][2] == "Ok… "
    assert words_of("") == words_of("… !!! 😀") == []


def test_writing_without_blanks_is_timed_letter_by_letter() -> None:
    words = words_of("これは AI です。")
    assert [word.text for word in words] == ["こ", "れ", "は", "AI", "で", "す。"]
    assert [word.blank_before for word in words] == [True, False, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Привет, мир", "ru"),
        ("مرحبا", "ar"),
        ("שלום", "he"),
        ("你好", "cmn"),
        ("カタカナ", "ja"),
        ("नमस्ते", "hi"),
        ("안녕", "ko"),
    ],
)
def test_the_letters_of_a_script_give_its_likeliest_language(text: str, language: str) -> None:
    assert candidate_languages(words_of(text))[0] == language


def test_the_direction_of_a_text_is_that_of_its_first_letter() -> None:
    assert is_right_to_left("«שלום» hello")
    assert not is_right_to_left("1. hello שלום")


def test_a_language_without_a_voice_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="no voice for the language tlh"):
        align(words_of("nuqneH"), np.zeros(16_000, np.float32), "tlh")


def test_cues_fit_two_lines_end_at_pauses_and_never_overlap() -> None:
    words = heard_words(60, pause_after=7)
    cues = cues_of(words)
    assert [timed for cue in cues for line in cue.lines for timed in line] == words
    for cue in cues:
        assert len(cue.lines) <= 2
        assert all(width_of(line) <= 37 for line in cue.text.split("\n"))
        assert cue.end_s - cue.start_s <= LONGEST_S + 0.4
    assert all(before.end_s <= after.start_s for before, after in pairwise(cues))
    last_before_pause = next(cue for cue in cues if "word7" in cue.text)
    assert last_before_pause.text.endswith("word7")


def test_a_word_wider_than_a_line_gets_a_line_of_its_own() -> None:
    long = HeardWord("x" * 60, True, 0.3, 0.6)
    cues = cues_of([HeardWord("a", True, 0, 0.3), long, HeardWord("b", True, 0.6, 0.9)], Shape(10, 2))
    assert [timed.text for cue in cues for line in cue.lines for timed in line] == ["a", long.text, "b"]


def test_words_at_one_moment_are_all_shown() -> None:
    words = [HeardWord(f"w{i}.", True, 1.0, 1.0) for i in range(5)]
    shown = " ".join(cue.text.replace("\n", " ") for cue in cues_of(words))
    assert shown.split() == ["w0.", "w1.", "w2.", "w3.", "w4."]


def test_srt_and_vtt_carry_the_same_words_and_times() -> None:
    words = [HeardWord("Tom", True, 0.5, 0.9), HeardWord("<b>&", True, 0.9, 1.2), HeardWord("Ann.", True, 3661.5, 3662)]
    cues = cues_of(words)
    assert srt(cues) == ("1\n00:00:00,500 --> 00:00:01,600\nTom <b>&\n\n2\n01:01:01,500 --> 01:01:02,500\nAnn.\n")
    text = vtt(cues)
    assert text.startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.600\nTom <00:00:00.900>&lt;b&gt;&amp;\n")
    assert re.findall(r"\d\d:\d\d:\d\d\.\d{3} --> ", text) == ["00:00:00.500 --> ", "01:01:01.500 --> "]


def test_captions_without_words_are_refused_with_the_name_of_the_field() -> None:
    with pytest.raises(InvalidInput) as empty:
        check_captions(Ask(script="[whispers] ..."), None)
    assert empty.value.field == "script"
    check_captions(Ask(), None)
    check_captions(Ask(script="[whispers] ...", captions="off"), None)


def test_kanji_are_read_by_a_dictionary_and_shown_as_they_are_written() -> None:
    words = with_readings(words_of(JAPANESE))
    assert [word.text for word in words] == [
        "こんにちは、", "これは", "写真から", "作られた", "動画です。", "とても", "簡単に", "作れますよ。",
    ]  # fmt: skip
    assert [word.spoken for word in words][1:5] == ["コレワ", "シャシンカラ", "ツクラレタ", "ドウガデス。"]
    speech, truth = read_aloud(" ".join(word.spoken for word in words), "ja", words=words)
    heard = align(words_of(JAPANESE), speech, None)
    assert (heard.language, heard.fits, heard.guessed) == ("ja", True, ())
    assert "".join(word.text for word in heard.words) == JAPANESE
    assert np.max(np.abs(np.array([word.start_s for word in heard.words]) - truth)) < 0.1


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("今日は2024年3月15日です。", ["キョウワ", "2024 ネン", "3 ガツ", "15 ニチデス。"]),
        ("彼は「行く」と言った", ["カレワ", "「イク」ト", "イッタ"]),
        ("AIとLipsyncを使う😀。", ["エーアイト", "Lipsyncヲ", "ツカウ。"]),
        ("３０分 人々が", ["30 フン", "ヒトビトガ"]),
    ],
)
def test_numbers_quotations_and_foreign_words_in_japanese_are_read_too(text: str, readings: list[str]) -> None:
    assert [word.spoken for word in with_readings(words_of(text))] == readings


def test_a_japanese_text_longer_than_the_dictionary_takes_is_read_in_parts() -> None:
    words = with_readings(words_of("写真から動画を作ります。" * 2000))
    assert "".join(word.text for word in words) == "写真から動画を作ります。" * 2000
    assert {word.spoken for word in words} == {"シャシンカラ", "ドウガヲ", "ツクリマス。"}


def test_words_whose_sound_no_voice_knows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipsync_server.media.captions.align.can_read_kanji", lambda: False)
    speech, _ = read_aloud("これはことばです", "ja")
    assert align(words_of(JAPANESE), speech, "ja").guessed == tuple("写真作動画簡単")
    assert align(words_of("これはことばです"), speech, "ja").guessed == ()
    assert align(words_of("漢字도 있어요"), speech, "ko").guessed == ("漢", "字")
    assert align(words_of("The word សួស្តី is Khmer"), speech, "en").guessed == ("សួស្តី",)


@pytest.mark.parametrize(
    ("script", "language", "guesses"),
    [
        ("مرحبا بكم في هذا الفيديو عن iPhone", "ar", True),
        ("مَرْحَبًا بِكُمْ فِي هَذَا الفِيدْيُو", "ar", False),
        ("שָׁלוֹם לְכֻלָּם", "he", True),
        ("The word مرحبا is Arabic", "en", False),
        (MANDARIN, "cmn", False),
    ],
)
def test_words_without_their_short_vowels_give_a_warning(script: str, language: str, guesses: bool) -> None:
    speech, _ = read_aloud(script, language)
    heard = align(words_of(script), speech, language)
    warnings: list[str] = []
    VideoCaptions(Ask(script=script), heard, None, warnings.append)
    assert ["short vowels" in warning for warning in warnings] == [True] * guesses


def test_times_that_no_voice_made_give_no_warning_about_vowels() -> None:
    recognised = HeardScript((HeardWord("مرحبا", True, 0.0, 1.0),), "ar", True)
    warnings: list[str] = []
    VideoCaptions(Ask(captions="track"), recognised, None, warnings.append)
    assert warnings == []


@pytest.mark.parametrize("foreign", ["你好世界", "Здравствуйте", "สวัสดีครับ", "नमस्ते", "שלום", "مرحبا", "こんにちは"])
def test_a_word_in_another_writing_system_is_read_and_not_spelled(foreign: str) -> None:
    """espeak-ng alone reads "Chinese letter, Chinese letter" for 你好, for 1.5 s."""
    spoken = speak(["The", "word", foreign, "is", "here."], "en")
    assert 0.2 < spoken.starts_s[3] - spoken.starts_s[2] < 1.3
    assert align([Word("The"), Word(foreign)], spoken.samples, "en").guessed == ()


@pytest.mark.parametrize(
    ("text", "language", "aloud"),
    [
        ("it cost $1,250.50, or", "en", "it|cost|1,250 dollars and 50 cents,|or"),
        ("a $5M plan, €3", "en-GB", "a|5 million dollars|plan,|3 euros"),
        ("On 03/15/2024 and 13/05/2020", "en", "On|March 15th, 20 24|and|May 13th, 20 20"),
        ("on 03/04/2024", "en-GB", "on|April 3rd, 20 24"),
        ("from 1999-2005, 5-10", "en", "from|19 99 to 2005,|5 to 10"),
        ("call 555-0199 in 1905 #1", "en", "call|5 5 5 0 1 9 9|in|19 oh 5|number 1"),
        ("15/03/2024 R$ 1.250,50 R$20.", "pt-BR", "15 de março de 2024|1.250|reais e 50 centavos|20 reais."),
        ("Ligue 98765-4321, 5-10%", "pt-BR", "Ligue|9 8 7 6 5 4 3 2 1,|5 a 10%"),
        ("1.250.000 12,5% 14h30 2ª", "pt-BR", "1.250.000|12,5%|14h30|2ª"),
        ("₹1,500 है", "hi", "1,500 रुपये|है"),
        ("$ 5 for 31/31/2024", "xx", "$|5|for|31/31/2024"),
    ],
)
def test_prices_dates_and_ranges_are_spoken_in_the_order_of_speech(text: str, language: str, aloud: str) -> None:
    assert "|".join(said(text.split(), language)) == aloud


def test_words_that_the_voice_joins_move_no_other_word() -> None:
    """espeak-ng reads 만드는 방법을 as one word, and then names each later word's start after the word before it."""
    text = "사진 한 장으로 영상을 만드는 방법을 소개합니다. 가격은 12,500원이고 AI가 입 모양을 계산합니다."
    words = [word.spoken for word in words_of(text)]
    starts_s = speak(words, "ko").starts_s
    for number in (3, 5, 9, 10):
        alone_s = speak(words[number : number + 1], "ko").starts_s[-1]
        assert starts_s[number + 1] - starts_s[number] <= 1.4 * alone_s
    assert starts_s[9] - starts_s[8] > 1.5  # 12,500원이고 is long


def test_a_number_that_is_read_in_other_words_is_named_as_guessed() -> None:
    as_said = "The code of the door is eight hundred and seventy three thousand and four, so write it down now."
    speech, _ = read_aloud(as_said, "en")
    plain = "The code of the door is {}, so write it down now."
    assert align(words_of(plain.format("873004")), speech, "en").guessed == ()
    assert align(words_of(plain.format("8")), speech, "en").guessed == ("8,",)


def test_digits_and_letters_of_every_form_are_spoken() -> None:
    forms = ["۱۵", "१५", "২৪", "１５", "①", "Ⅳ", "ﬁne", "ｶﾞｷﾞ", "x²", "½", "1º"]
    assert [Word(form).spoken for form in forms] == ["15", "15", "24", "15", "1", "IV", "fine", "ガギ", "x²", "½", "1º"]


def test_a_cut_never_parts_a_letter_from_the_vowel_or_mark_that_belongs_to_it() -> None:
    kana = [word.text for word in words_of("コンピューターがっこう「はい」と")]
    assert kana == ["コ", "ン", "ピュー", "ター", "がっ", "こ", "う", "「は", "い」", "と"]
    thai = [word.text for word in words_of("วันนี้เราจะมาพูดคุยเกี่ยวกับเรื่องสภาพอากาศในประเทศไทยของเรา")]
    assert len(thai) > 2
    assert not any(part[0] in "ะาำๆ" or part[-1] in "เแโใไ" for part in thai)


def test_the_commonest_words_of_a_script_help_to_find_its_language() -> None:
    """A recording that tells nothing leaves the choice to the words."""
    silence = np.zeros(SPEECH_RATE_HZ, np.float32)
    assert align(words_of("Ich habe das nicht mit dem Hund und der Katze"), silence, None).language == "de"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("این یک متن کوتاه فارسی است", "fa"),
        ("اليوم سنتحدث عن الصورة", "ar"),
        ("її книга є тут", "uk"),
        ("Это книга", "ru"),
    ],
)
def test_letters_that_few_languages_use_tell_neighbours_apart(text: str, language: str) -> None:
    assert language_of(text, words_of(text)) == language
