"""The language of a text: from its writing system, its commonest words, and letters that few languages use.

A text read with the sounds of another language cannot be understood, and its words are timed worse. The commonest words
of a language (the, que, und) make up a third of any text, so a sentence is enough. Does not know languages without an
entry here: the caller names these.
"""

import re
from collections.abc import Sequence
from typing import Final

from lipsync_server.media.captions.script import Word, candidate_languages

_COMMON: Final[dict[str, str]] = {
    "en": "the of and to in is you that it for on are with this be i was have not what your my we can our from hello",
    "pt-BR": "de que o a e do da em um para é com não uma os no se na por mais as dos como mas ao das seu sua ou "
    "quando muito nos já eu também só pelo pela até isso ela entre você está olá são vocês meu minha aqui hoje "
    "este esta",
    "es": "de que el la y en a los se del las por un para con no una su al lo como más pero sus le o este sí porque "
    "esta cuando muy sin sobre también me hasta hay donde es está hola yo mi tú usted hoy",
    "fr": "de la le et les des en un une du est que dans qui pour pas au sur ne se ce il je vous nous avec plus par "
    "mais c'est bonjour j'ai d'un d'une l'on votre cette sont être aujourd'hui",
    "de": "der die das und ist in zu den ich nicht mit sich auf ein eine für es sie von dem wir auch an werden hallo "
    "heute bei einen wie dass sind",
    "it": "di che e la il un è per una in non sono mi si ho lo ma ha le con ti se da come ci no questo qui del della "
    "ciao oggi più gli anche dei",
    "nl": "de het een en van ik is dat niet in je op te zijn met voor er maar die we heb aan hallo vandaag ook naar",
    "pl": "nie to się w na i z że do jest tak jak o ale po co za ja czy od cześć dzisiaj jestem są oraz dla",
    "tr": "bir ve bu da de için ne çok ben o ama gibi var daha merhaba bugün ile olarak sen mi değil",
    "id": "yang dan di itu tidak ini dengan untuk saya dari akan pada ada kita kamu bisa halo hari adalah ke",
    "vi": "là của và có không tôi một được cho người này các trong với bạn những xin chào hôm nay",
    "sv": "och det att i en jag är som på inte för av den med till var om hej idag ett har vi du",
    "ro": "și de în la nu este un o că pe cu din mai sunt pentru să bună astăzi care ce eu te",
    "cs": "a je se v na to že jsem s z do ne o jak ale co ahoj dnes pro tak jsou už za",
    "hu": "a az és hogy nem is egy ez van de meg én szia ma csak mint már vagy itt",
    "fi": "ja on ei että se en mutta minä hän olen kun niin mitä hei tänään ovat oli tämä",
}
_WORDS: Final = {language: frozenset(words.split()) for language, words in _COMMON.items()}
# Letters that few languages of the same writing system use. Short texts often have no other sign of their language.
_LETTERS: Final[dict[str, str]] = {
    "pt-BR": "ãõ", "es": "ñ¿¡", "fr": "œêèùûî", "de": "ßäü", "it": "ìò", "pl": "łąęśżźćń", "tr": "ğış", "ro": "țășț",
    "ar": "ةىيكأإ", "fa": "پچژگیک", "ur": "ٹڈڑںےھ", "ru": "ыэё", "uk": "іїєґ", "sr": "ђћџљњј", "kk": "әғқңөұүһі",
    "cs": "řůěž", "hu": "őű", "sv": "å", "vi": "ăơưđạảấầẩẫậắằẳẵặẹẻẽếềểễệịỉọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
}  # fmt: skip
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def language_of(text: str, words: Sequence[Word]) -> str | None:
    """The likeliest language of `text`, whose words are `words`; None for writing that no known language uses."""
    candidates = candidate_languages(words)
    if not candidates:
        return None
    score = signs_of(text)
    return max(candidates, key=lambda language: score.get(language, 0.0))  # the likeliest, where there is no sign


def signs_of(text: str) -> dict[str, float]:
    """How many words and letters of `text` are signs of each language that has an entry here."""
    lowered = text.lower().replace("’", "'")
    tokens = _TOKEN.findall(lowered)
    return {
        language: sum(token in _WORDS.get(language, ()) for token in tokens)
        + 0.5 * sum(lowered.count(letter) for letter in _LETTERS.get(language, ""))
        for language in _WORDS.keys() | _LETTERS.keys()
    }
