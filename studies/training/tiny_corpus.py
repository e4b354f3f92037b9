"""Text for the tiny pair: modules, functions, dialogues, stories and logs about made-up things.

Every document opens with its subject, an adjective and a noun. One pair in eight is held out, so a
held-out prompt, which names its subject, begins no document of the training text.
"""

from collections.abc import Callable, Sequence
from random import Random

EOS = 256  # after the 256 bytes
HELD_OUT = 8
PROMPT_BYTES = (20, 200)


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


ADJECTIVES = words(
    "amber blue brave broken calm clever cold copper dark early empty fast gentle golden green "
    "hidden hollow huge iron late little lost lucky new old orange pale patient purple quiet rapid "
    "red round rusty silent silver small steady tall warm white wild wooden young"
)
NOUNS = words(
    "anchor basket beacon bell boat book bottle bridge bucket button camera candle carpet clock "
    "compass cup door drum engine feather garden hammer harbor kettle key ladder lantern letter "
    "lighthouse map mirror needle notebook oven parcel pencil piano pump ribbon river sail shelf "
    "signal stamp table tower train tunnel wagon wheel window"
)
FIELDS = words("name size color weight owner price count label height limit")
VERBS = words("update reset check scale")
PEOPLE = words("Anna Ben Clara David Emma Felix Grace Henry")
PLACES = words("kitchen garden library station harbor market attic cellar")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
ENDS = (
    "It was the best day of the year.",
    "Nobody ever spoke of it again.",
    "From then on it stayed where it was.",
)
Subject = tuple[str, str]


def pick(draw: Random, words: Sequence[str]) -> str:
    """One of ``words``, the early ones more often."""
    return words[int(draw.random() ** 2 * len(words))]


def some(draw: Random, words: Sequence[str], least: int, most: int) -> list[str]:
    """From ``least`` to ``most`` different words."""
    wanted = least + int(draw.random() * (most - least + 1))
    found: list[str] = []
    while len(found) < wanted:
        word = pick(draw, words)
        found += [word] * (word not in found)
    return found


def module(draw: Random, subject: Subject) -> str:
    """A class that keeps its fields, with a method for each."""
    kind, var = "".join(word.title() for word in subject), "_".join(subject)
    fields = some(draw, FIELDS, 2, 4)
    text = (
        f"# The {' '.join(subject)}.\nclass {kind}:\n    def __init__(self, {', '.join(fields)}):\n"
    )
    text += "".join(f"        self.{f} = {f}\n" for f in fields)
    for field in fields:
        verb = pick(draw, VERBS)
        text += f"\n    def {verb}_{field}(self, {field}):\n"
        text += f'        """{verb.title()} the {field} of the {" ".join(subject)}."""\n'
        if verb == "check":
            text += f"        return self.{field} == {field}\n"
        else:
            text += f"        self.{field} = {field}\n        return self\n"
    made = ", ".join(f"{f}={1 + int(draw.random() * 9)}" for f in fields)
    return text + f"\n\n{var} = {kind}({made})\nprint({var}.{fields[0]})\n"


def function(draw: Random, subject: Subject) -> str:
    """A loop over things, and a test of it."""
    var, (left, right) = "_".join(subject), some(draw, FIELDS, 2, 2)
    verb, best = pick(draw, ("count", "find", "sort", "merge")), pick(draw, ("total", "best"))
    text = f"def {verb}_{var}(items, {left}, {right}=None):\n"
    text += f'    """{verb.title()} every {" ".join(subject)} by {left} and {right}."""\n'
    text += f"    {best} = 0\n    for item in items:\n"
    text += f"        if item.{left} == {left}:\n            {best} += item.{right}\n"
    text += f"        elif {right} is not None:\n            {best} -= {right}\n    return {best}\n"
    text += f"\n\ndef {verb}_all(groups, {left}):\n    {best} = []\n    for items in groups:\n"
    text += f"        {best}.append({verb}_{var}(items, {left}))\n    return {best}\n"
    many = 1 + int(draw.random() * 9)
    text += f"\n\ndef test_{verb}_{var}():\n    items = [Item({left}={many}, {right}={many + 1})]\n"
    return text + f"    assert {verb}_{var}(items, {left}={many}) == {many + 1}\n"


def dialogue(draw: Random, subject: Subject) -> str:
    """Questions and answers about a thing."""
    thing, (who, other) = " ".join(subject), some(draw, PEOPLE, 2, 2)
    place, day, noun = pick(draw, PLACES), pick(draw, DAYS), pick(draw, NOUNS)
    turns = [
        ("Who has it now?", f"{who} has the {thing}. {who} bought it on {day}."),
        ("Is it still there?", f"Yes, the {thing} is still in the {place}."),
        ("Can I borrow it?", f"You would have to ask {who}, who needs it until {day}."),
        ("And who had it before?", f"{other} had it before {who}, but only until {day}."),
        ("Is anything wrong with it?", f"The {thing} is a little {pick(draw, ADJECTIVES)}."),
        ("What is it worth?", f"About {int(draw.random() * 90)} crowns, or one {noun}."),
    ]
    text = f"user: Where is the {thing}?\nassistant: The {thing} is in the {place}.\n"
    for index in sorted(some(draw, "012345", 4, 6)):
        ask, answer = turns[int(index)]
        text += f"user: {ask}\nassistant: {answer}\n"
    return text + "user: Thank you!\nassistant: You are welcome.\n"


def story(draw: Random, subject: Subject) -> str:
    """A few sentences with much to choose from."""
    thing, (who, other) = " ".join(subject), some(draw, PEOPLE, 2, 2)
    here, there = some(draw, PLACES, 2, 2)
    text = f"The story of the {thing}. On {pick(draw, DAYS)} {who} found it in the {here}. "
    text += f"It looked {pick(draw, ADJECTIVES)} and {pick(draw, ADJECTIVES)}, "
    text += f"so {who} {pick(draw, ('carried', 'took', 'sent'))} it to the {there}. "
    text += f"{other} was waiting there with a {pick(draw, ADJECTIVES)} {pick(draw, NOUNS)}. "
    text += f'"{pick(draw, ("Is that", "What about", "Give me"))} the {thing}?" asked {other}. '
    text += f'"{pick(draw, ("Yes", "No", "Perhaps"))}," said {who}, '
    text += f'"but the {pick(draw, NOUNS)} is {pick(draw, ADJECTIVES)}." '
    for friend in some(draw, PEOPLE, 2, 3):
        text += f"{friend} wanted to know if the {thing} was {pick(draw, ADJECTIVES)}. "
    text += f"Then {other} found a {pick(draw, NOUNS)} in the {there}, and gave it to {who}. "
    return text + f"So {who} and {other} went back to the {here}. {pick(draw, ENDS)}\n"


def log(draw: Random, subject: Subject) -> str:
    """Numbered lines of a machine at work."""
    name, step = "-".join(subject), int(draw.random() * 90)
    text = f"log of {name}\n"
    for i in range(9 + int(draw.random() * 9)):
        state = pick(draw, ("ok", "ok", "retry", "failed"))
        text += f"[{step + i:03d}] {name}: step {step + i} {state}, {int(draw.random() * 100)} ms\n"
    return text + f"[done] {name}: last step\n"


KINDS: tuple[Callable[[Random, Subject], str], ...] = (module, function, dialogue, story, log)


def documents(count: int, *, seed: int, held_out: bool = False) -> list[str]:
    """``count`` documents, of one half of the split or of the other."""
    draw = Random(seed)
    found: list[str] = []
    while len(found) < count:
        a, b = int(draw.random() * len(ADJECTIVES)), int(draw.random() * len(NOUNS))
        if ((3 * a + b) % HELD_OUT == 0) == held_out:
            found.append(KINDS[len(found) % len(KINDS)](draw, (ADJECTIVES[a], NOUNS[b])))
    return found


def prompts(count: int, *, seed: int, held_out: bool = True) -> list[str]:
    """Openings of documents: up to their subject at least, and of varied length."""
    draw, (least, most) = Random(seed), PROMPT_BYTES
    found: list[str] = []
    for text in documents(2 * count, seed=seed + 1, held_out=held_out):
        named = 1 + next(i for i, c in enumerate(text) if c in "\n?.(" and i >= least)
        cut = max(named, least + int(draw.random() * (most - least + 1)))
        if text[:cut] not in found and cut <= most:
            found.append(text[:cut])
    return found[:count]


def kind_of(prompt: str) -> str:
    """Which of :data:`KINDS` a prompt opens."""
    openings = {"#": module, "d": function, "u": dialogue, "T": story, "l": log}
    return openings[prompt[0]].__name__
