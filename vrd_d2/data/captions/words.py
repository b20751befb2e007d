"""What the caption parsers know of English: word classes, plurals, forms of verbs.

Forms are generated from base forms, never guessed from endings: a word that no list or rule made
is an unknown word, which costs a triplet and cannot make a wrong one.
"""

import re
from collections.abc import Iterable

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*(?:(?<=s)['’](?=\s))?|[^\w\s]|_")
_POSSESSIVE = re.compile(r"(.+?)['’](s?)$")


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words and punctuation marks.

    "man's" is "man" and "'s", "t-shirt" is "tshirt".
    """
    words = []
    for word in _WORD.findall(text.lower()):
        if len(word) > 1 and (match := _POSSESSIVE.fullmatch(word)):
            words += [match[1].replace("-", ""), "'s"]
        else:
            words.append(word.replace("-", "") or word)
    return words


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
BE = _words("is are was were be been being am")
HAVE = _words("has have had having")
DETERMINERS = ARTICLES | _words(
    "this these those his her its their my your our another each every both all some any no many "
    "several few various one two three four five six seven eight nine ten dozens"
)
PRONOUNS = _words(
    "he she it they him them himself herself itself themselves we us you i me everyone someone "
    "somebody nobody anyone everything something nothing none others"
)
PREPOSITIONS = _words(
    "on in at of with by for from to into onto near behind under above below beneath beside over "
    "between among amongst amidst against along alongside across around round through toward "
    "towards up down off out inside outside atop underneath past during after before like without "
    "within upon about via per beyond opposite throughout besides"
)
MULTIWORD_PREPOSITIONS = tuple(
    tuple(phrase.split())
    for phrase in (
        "in front of", "on front of", "at front of", "on top of", "at top of", "in back of",
        "on back of", "at back of", "next to", "close to", "close up of", "out of", "inside of",
        "outside of", "off of", "on side of", "at side of", "by side of", "to side of",
        "on left of", "on right of", "to left of", "to right of", "on left side of",
        "on right side of", "on other side of", "on either side of", "in middle of",
        "in center of", "in centre of", "at edge of", "on edge of", "at end of", "on end of",
        "on bottom of", "at bottom of", "because of", "instead of", "in between", "up to",
        "as well as", "such as", "on to", "in to", "away from", "far from", "along with",
        "together with", "ahead of", "underneath of", "in corner of", "on corner of", "full of",
    )
)  # fmt: skip
# Before another preposition they belong to the verb: "sitting down on", "looking up at".
PARTICLES = _words("up down out back around away off over ahead along by on straight right")
ADVERBS = _words(
    "very also just now still only together currently slightly partially closely there here "
    "outdoors indoors nearby alone apart quite too mostly almost then already really upright "
    "straight playfully"
)
# Ends of a statement about what is there: what follows is possible, wished or unclear.
UNCERTAIN = _words(
    "do does did can could will would may might must should or as if because so that's trying "
    "about than like unlike where when whose what how why"
)
NEGATIONS = _words("not never without isn't aren't n't nobody neither nor")
# "a group of people" are people; "the back of a car" is not a car.
QUANTIFIERS = _words(
    "group groups couple pair pairs lot lots bunch bunches row rows number crowd line herd herds "
    "flock flocks set sets pile piles piece pieces slice slices variety series collection cluster "
    "clusters team plenty stack stacks kind kinds type types dozen assortment array hundreds "
    "photo photograph image view shot closeup"
)
# In front of any name they make it another thing ("toy horse", "stuffed dog") ...
MISLEADING = _words("toy stuffed teddy fake inflatable hot corn prairie gummy rocking statue")
# ... or in front of one name ("pony tail" is hair, "license plate" is no dish).
MISLEADING_PAIRS = frozenset(
    tuple(pair.split())
    for pair in (
        "pony tail", "pig tail", "license plate", "licence plate", "number plate", "name plate",
        "computer tower", "pc tower", "steering wheel", "ferris wheel", "light house",
        "green house", "motor bike", "dirt bike", "key board", "card board", "clip board",
        "dart board", "ear phone", "head phone", "door bell", "sea horse", "horse shoe",
        "chess board", "score board", "wheel chair",
    )
)  # fmt: skip
# Words in -ing that are nouns, or in front of a noun are part of its name.
ING_NOUNS = _words(
    "building ceiling string ring king wing railing clothing painting thing evening morning "
    "wedding spring earring frosting icing awning crossing topping toppings covering opening "
    "lighting pudding stocking landing sling writing marking flooring siding bedding seating "
    "something nothing everything anything dining parking living bathing baking cutting shopping "
    "washing outing sibling duckling dressing stuffing"
)
# Verbs that only say how something is where it is: "lying under X" is "under X".
STATIVE = _words(
    "sit stand lie lay sleep park rest hang perch locate place position situate pose stack float "
    "wait graze seat stop display store arrange pile line gather mount stick set put scatter dress "
    "clothe walk run kneel crouch squat grow swim lounge relax nap dock moor pack"
)
# Prepositions that stay true without such a verb.
SPATIAL = frozenset(
    tuple(phrase.split())
    for phrase in (
        "on", "in", "behind", "in front of", "next to", "near", "under", "above", "beside", "over",
        "against", "between", "inside", "inside of", "below", "beneath", "underneath", "by",
        "on top of", "atop", "outside", "outside of", "close to", "alongside", "along", "at",
        "on side of", "among", "on back of", "adjacent to", "across from", "on left of",
        "on right of", "upon", "amongst",
    )
)  # fmt: skip
# First words of predicates that are neither prepositions nor verbs: "adjacent to".
NO_VERBS = _words(
    "part adjacent attached taller shorter bigger smaller larger higher lower parallel similar "
    "left right front back top and or"
)
# "walked by a man" says nothing of who walked whom.
INTRANSITIVE = _words(
    "walk fly look talk sit stand lie sleep jump run swim skate stop park pass drive go wait stay "
    "lean kneel crouch live smile rest"
)

IRREGULAR_PLURALS = {
    "child": "children", "person": "people", "foot": "feet", "tooth": "teeth", "goose": "geese",
    "mouse": "mice", "ox": "oxen", "sheep": "sheep", "deer": "deer", "fish": "fish",
    "leaf": "leaves", "shelf": "shelves", "knife": "knives", "wolf": "wolves", "half": "halves",
    "loaf": "loaves", "scarf": "scarves", "calf": "calves", "wife": "wives", "hoof": "hooves",
    "thief": "thieves", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
    "human": "humans", "aircraft": "aircraft",
}  # fmt: skip
_PLURALS = frozenset(IRREGULAR_PLURALS.values())
_VOWELS = frozenset("aeiou")

_IRREGULAR_VERBS = {  # base: (past, past participle)
    "sit": ("sat", "sat"), "stand": ("stood", "stood"), "ride": ("rode", "ridden"),
    "wear": ("wore", "worn"), "hold": ("held", "held"), "eat": ("ate", "eaten"),
    "lay": ("laid", "laid"), "lie": ("", "lain"), "fly": ("flew", "flown"),
    "hang": ("hung", "hung"), "drive": ("drove", "driven"), "feed": ("fed", "fed"),
    "hit": ("hit", "hit"), "sleep": ("slept", "slept"), "make": ("made", "made"),
    "swing": ("swung", "swung"), "throw": ("threw", "thrown"), "catch": ("caught", "caught"),
    "cut": ("cut", "cut"), "draw": ("drew", "drawn"), "drink": ("drank", ""),
    "sell": ("sold", "sold"), "read": ("read", "read"), "write": ("wrote", "written"),
    "run": ("ran", ""), "swim": ("swam", "swum"), "grow": ("grew", "grown"),
    "build": ("built", "built"), "bend": ("bent", "bent"), "blow": ("blew", "blown"),
    "bring": ("brought", "brought"), "buy": ("bought", "bought"), "hide": ("hid", "hidden"),
    "keep": ("kept", "kept"), "lead": ("led", "led"), "light": ("lit", "lit"),
    "put": ("put", "put"), "say": ("said", "said"), "see": ("", "seen"), "set": ("set", "set"),
    "shake": ("shook", "shaken"), "show": ("showed", "shown"), "spread": ("spread", "spread"),
    "stick": ("stuck", "stuck"), "take": ("took", "taken"), "give": ("gave", "given"),
    "break": ("broke", "broken"), "bite": ("bit", "bitten"), "speak": ("spoke", "spoken"),
    "fall": ("", "fallen"), "leave": ("", ""), "find": ("", ""), "go": ("went", "gone"),
    "clothe": ("clad", "clad"),
}  # fmt: skip
_VERBS = """
    adjust aim apply approach arrange attach attack balance bark bat bathe belong board bounce
    brush call carry celebrate chain chase check chew clean climb clip close clothe collect
    color comb come connect contain cook cover crawl cross crouch crowd dance dangle decorate
    display dive dock dress drip drop enjoy enter examine exit extend face fasten fill fix float
    fold follow frame gather gaze get glow grab graze greet grip guide hand help herd hide hug jump
    kick kiss kneel land lay lean lick lie lift like line list load locate look lounge mark moor
    mount move nap nestle open operate overlook pack paint park pass pat paw peek perch perform pet
    pick pile place plant play plug point pose position pour prepare present protect pull push race
    raise reach reflect relax resemble rest roll row sail seat serve share shine shop sit situate
    skate skateboard ski slice slide smell smile snowboard splash squat stack stare start stop
    store stretch stuff support surf surround swim talk taste tie touch tow travel try turn type
    use wade wait walk wash watch water wave wear wet wipe work wrap
"""
VERBS = _words(_VERBS) | frozenset(_IRREGULAR_VERBS)
# Forms in -s and base forms that are nouns at least as often: "street lights", "the men park".
NOUN_LIKE = _words(
    "sign light cover hand board face tie wave rock park fly drink cut plant train pose track "
    "support point shadow shade shape mark line surf post cross show control shop ski skateboard "
    "snowboard skate bat paint frame clip pet paw pile row stack stop turn water work lead drive "
    "swing slide slice share sail roll list hit help herd fish fold drop dress display dock crowd "
    "color close clip chain call brush box use set"
)
# Forms in -s and base forms that are verbs more often, if something follows: "a girl in a cape
# stands with ...".
VERB_LIKE = _words("stand look ride watch walk play hold catch throw sit jump talk")
COLOURS = _words("orange gold silver rose cream chocolate olive lime peach salmon")


def plural(noun: str) -> str:
    """Return the plural of a noun; its last word is what changes in a name of several words."""
    first, space, last = noun.rpartition(" ")
    return first + space + _plural(last)


def _plural(word: str) -> str:
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word.endswith("man"):
        return word[:-2] + "en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def is_plural(word: str) -> bool:
    """Return whether a noun looks like a plural."""
    if word in _PLURALS or word.endswith("men"):
        return True
    return word.endswith("s") and not word.endswith(("ss", "us", "is", "'s"))


def verb_forms(base: str) -> dict[str, str]:
    """Return form -> kind of a verb: "base", "s", "ing", "past" (no participle), "participle"."""
    if base == "have":
        return dict.fromkeys(("have",), "base") | {"has": "s", "having": "ing", "had": "past"}
    stem = base + base[-1] if _doubles(base) else base
    if base.endswith("ie"):
        ing = base[:-2] + "ying"
    elif base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and base != "be":
        ing = base[:-1] + "ing"
    else:
        ing = stem + "ing"
    if base.endswith("e"):
        regular = base + "d"
    elif base.endswith("y") and base[-2] not in _VOWELS:
        regular = base[:-1] + "ied"
    else:
        regular = stem + "ed"
    past, participle = _IRREGULAR_VERBS.get(base, (regular, regular))
    third = base + "es" if base in ("go", "do") else _plural(base)
    forms = {base: "base", third: "s", ing: "ing"}
    for form, kind in ((past, "past"), (participle, "participle")):
        if form and form != base:
            forms[form] = kind
    return forms


def _doubles(base: str) -> bool:
    """Return whether the last letter doubles before -ing: consonant, vowel, consonant."""
    letters = base.replace("qu", "q")
    return (
        len(letters) >= 3
        and letters[-1] not in _VOWELS | frozenset("wxy")
        and letters[-2] in _VOWELS
        and sum(letter in _VOWELS for letter in letters) == 1
    )


def base_form(word: str) -> str:
    """Return the base form of a verb that is not in the lists, by its ending."""
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            if stem[-1] == stem[-2] and stem[-1] not in "lsz":
                return stem[:-1]
            # What sounds long is written with an e: "juggl(e)", "rid(e)", but "brandish".
            silent = stem[-1] in "cgsuvz" or (stem[-1] == "l" and stem[-2] not in _VOWELS | {"l"})
            short = sum(letter in _VOWELS for letter in stem) == 1 and _doubles(stem)
            return stem + "e" if (silent and not stem.endswith("ss")) or short else stem
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def verb_table(more: Iterable[str] = ()) -> dict[str, tuple[str, str]]:
    """Return form -> (base form, kind) of the listed verbs and of further base forms."""
    table: dict[str, tuple[str, str]] = {}
    for base in (*sorted(more), "have", *sorted(VERBS)):
        for form, kind in verb_forms(base).items():
            table.setdefault(form, (base, kind))
    table["seated"] = ("sit", "participle")
    return table
