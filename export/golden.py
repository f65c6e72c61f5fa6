"""Sentences that a bundle is tried on when it is made and when it is loaded, by language."""

from __future__ import annotations

from server.text.languages import SAME, distance

GOLDEN_SENTENCES = (
    "I love you.",
    "Good morning.",
    "How are you?",
    "Where is the station?",
    "It is raining today.",
    "I have never been to Taiwan.",
    "My brother bought three books yesterday.",
    "Could you tell me what time it is?",
)
"""In English."""

_OTHERS: dict[str, tuple[str, ...]] = {
    "de": (
        "Ich liebe dich.",
        "Guten Morgen.",
        "Wie geht es Ihnen?",
        "Wo ist der Bahnhof?",
        "Heute regnet es.",
        "Ich bin noch nie in Taiwan gewesen.",
        "Mein Bruder hat gestern drei Bücher gekauft.",
        "Könnten Sie mir sagen, wie spät es ist?",
    ),
    "fr": (
        "Je t'aime.",
        "Bonjour.",
        "Comment allez-vous ?",
        "Où est la gare ?",
        "Il pleut aujourd'hui.",
        "Je ne suis jamais allé à Taïwan.",
        "Mon frère a acheté trois livres hier.",
        "Pourriez-vous me dire l'heure qu'il est ?",
    ),
    "es": (
        "Te quiero.",
        "Buenos días.",
        "¿Cómo está usted?",
        "¿Dónde está la estación?",
        "Hoy llueve.",
        "Nunca he estado en Taiwán.",
        "Mi hermano compró tres libros ayer.",
        "¿Podría decirme qué hora es?",
    ),
    "it": (
        "Ti amo.",
        "Buongiorno.",
        "Come sta?",
        "Dov'è la stazione?",
        "Oggi piove.",
        "Non sono mai stato a Taiwan.",
        "Mio fratello ha comprato tre libri ieri.",
        "Potrebbe dirmi che ore sono?",
    ),
    "pt": (
        "Eu te amo.",
        "Bom dia.",
        "Como vai você?",
        "Onde fica a estação?",
        "Hoje está chovendo.",
        "Nunca estive em Taiwan.",
        "Meu irmão comprou três livros ontem.",
        "Você poderia me dizer que horas são?",
    ),
    "nl": (
        "Ik hou van je.",
        "Goedemorgen.",
        "Hoe gaat het met u?",
        "Waar is het station?",
        "Het regent vandaag.",
        "Ik ben nog nooit in Taiwan geweest.",
        "Mijn broer heeft gisteren drie boeken gekocht.",
        "Kunt u mij zeggen hoe laat het is?",
    ),
    "sv": (
        "Jag älskar dig.",
        "God morgon.",
        "Hur mår du?",
        "Var är stationen?",
        "Det regnar idag.",
        "Jag har aldrig varit i Taiwan.",
        "Min bror köpte tre böcker igår.",
        "Kan du säga mig vad klockan är?",
    ),
    "pl": (
        "Kocham cię.",
        "Dzień dobry.",
        "Jak się masz?",
        "Gdzie jest dworzec?",
        "Dzisiaj pada deszcz.",
        "Nigdy nie byłem na Tajwanie.",
        "Mój brat kupił wczoraj trzy książki.",
        "Czy może mi pan powiedzieć, która jest godzina?",
    ),
    "ru": (
        "Я тебя люблю.",
        "Доброе утро.",
        "Как у вас дела?",
        "Где находится вокзал?",
        "Сегодня идёт дождь.",
        "Я никогда не был на Тайване.",
        "Мой брат вчера купил три книги.",
        "Не могли бы вы сказать, который час?",
    ),
    "zh-Hant": (
        "我愛你。",
        "早安。",
        "你好嗎？",
        "車站在哪裡？",
        "今天下雨。",
        "我從來沒有去過台灣。",
        "我弟弟昨天買了三本書。",
        "你可以告訴我現在幾點嗎？",
    ),
    "zh-Hans": (
        "我爱你。",
        "早上好。",
        "你好吗？",
        "车站在哪里？",
        "今天下雨。",
        "我从来没有去过台湾。",
        "我弟弟昨天买了三本书。",
        "你可以告诉我现在几点吗？",
    ),
    "ja": (
        "愛しています。",
        "おはようございます。",
        "お元気ですか。",
        "駅はどこですか。",
        "今日は雨が降っています。",
        "私は台湾に行ったことがありません。",
        "弟は昨日、本を三冊買いました。",
        "今何時か教えていただけますか。",
    ),
    "ko": (
        "사랑해요.",
        "좋은 아침이에요.",
        "어떻게 지내세요?",
        "역이 어디예요?",
        "오늘은 비가 와요.",
        "저는 대만에 가 본 적이 없어요.",
        "제 동생은 어제 책 세 권을 샀어요.",
        "지금 몇 시인지 알려 주시겠어요?",
    ),
}


def golden_sentences(language: str) -> tuple[str, ...] | None:
    """The sentences in a language, by its BCP-47 code; None if there are none in it."""
    table = {"en": GOLDEN_SENTENCES} | _OTHERS
    far = {code: distance(language, code) for code in table}
    nearest = min(far, key=lambda code: far[code])
    return table[nearest] if far[nearest] <= SAME else None
