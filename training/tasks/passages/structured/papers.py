"""Documents of everyday life: receipts, recipes, mails, changelogs, glossaries and notes."""

from collections.abc import Sequence

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.data import load_forms, load_heads
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.sentences import Sentence, load_patterns, load_sentences
from training.tasks.passages.structured.wordings import find_wordings

EACH = ("the price of one {item}", "how much is each of the {item}", "= {item} price each")
"Wordings for the price of one of several."
SIGNED = ("who signed the mail", "who signs", "= signed by")


def write_receipt(draws: Draws) -> Draft:
    """Write a receipt or an invoice, whose total is right."""
    draft, forms = Draft(), load_forms("receipt")
    _write_heads(draft, draws, "receipt", draws.between(0, 5), "receipt.head")
    if draft.pieces:
        draft.gap()
    form = draws.pick(forms["items"])
    items = draws.different(draws.pick(forms["items_of"]), draws.between(1, 9))
    currency = draws.pick(forms["currencies"])
    cents = [draws.between(20, 9999) for _ in items]
    first = len(draft.pieces)
    for item, price in zip(items, cents, strict=True):
        _write_item(draft, draws, form, item, currency.format(f"{price / 100:.2f}"))
    if cents.count(cents[0]) == 1:
        lines = first, len(draft.pieces) - 1
        draft.ask("receipt.first", items[0], lines)
        draft.ask("receipt.last", items[-1], lines)
    for item in draws.other_names("food", items):
        draft.ask_absent("receipt.price", item, item=item)
    if draws.chance(0.7):
        total = currency.format(f"{sum(cents) / 100:.2f}")
        draft.ask("receipt.total", total, draft.add(draws.pick(forms["totals"]).format(total)))
    return draft


def _write_item(draft: Draft, draws: Draws, form: str, item: str, price: str) -> None:
    fill = {"item": item, "price": price, "value": price, "count": str(draws.between(1, 40))}
    place = draft.add(form.format_map(fill))
    draft.ask(EACH if "@" in form else "receipt.price", price, place, **fill)
    if "{count}" in form:
        draft.ask("receipt.count", fill["count"], place, **fill)
    if sum(price in piece for piece in draft.pieces) == 1:
        draft.ask("receipt.back", item, place, **fill)


def write_recipe(draws: Draws) -> Draft:
    """Write a recipe: ingredients, and steps mostly."""
    draft, forms = Draft(lead=1), load_forms("recipe")
    title = draws.pick(forms["titles"])
    draft.add(title.format(spellings.capitalise(draws.value("dish"))))
    _write_heads(draft, draws, "recipe", draws.between(0, 3), "recipe.head")
    form = draws.pick(forms["ingredients"])
    items = draws.different("food", draws.between(2, 9))
    amounts = [draws.value(draws.pick(("weight", "volume", "small"))) for _ in items]
    for item, amount in zip(items, amounts, strict=True):
        place = draft.add(form.format(item=item, amount=amount))
        draft.ask("recipe.amount", amount, place, item=item)
        if sum(amount in other for other in amounts) == 1 and not amount.isdigit():
            draft.ask("recipe.back", item, place, value=amount)
    for item in draws.other_names("food", items):
        draft.ask_absent("recipe.amount", item, item=item)
    if draws.chance(0.6):
        draft.gap()
        _write_steps(draft, draws, draws.pick(forms["steps"]))
    return draft


def _write_steps(draft: Draft, draws: Draws, form: str) -> None:
    steps = draws.shuffled(load_patterns("instructions"))[: draws.between(2, 6)]
    for number, step in enumerate(steps, start=1):
        text = draws.fill(step)
        place = draft.add(form.format(number, text))
        draft.ask("recipe.step", text.rstrip("."), place, number=str(number))
    beyond = str(len(steps) + 1)
    draft.ask_absent("recipe.step", form.format(beyond, "").strip(), number=beyond)


def write_mail(draws: Draws) -> Draft:
    """Write a mail: headers, and some lines with a fact each."""
    draft, forms, heads = Draft(), load_forms("mail"), load_heads("mail")
    chosen = draws.some(heads, draws.between(2, 6))
    for key, kind, group in chosen:
        value = draws.value(kind)
        place = draft.add(f"{key}: {value}")
        draft.ask("mail.head", value, place, key=_speak(draws, key))
        if group:
            draft.ask(group, value, place)
    for head in heads:
        if head not in chosen:
            draft.ask_absent("mail.head", f"{head[0]}:", key=_speak(draws, head[0]))
    draft.gap()
    sentences = draws.shuffled(load_sentences("said"))[: draws.between(0, 5)]
    if sentences:
        draft.add(draws.pick(forms["greetings"]).format(draws.first()))
    for sentence in sentences:
        _write_sentence(draft, draws, sentence, "{text}.")
    if sentences:
        draft.add(draws.pick(forms["closings"]))
        name = draws.first()
        draft.ask(SIGNED, name, draft.add(name))
    _ask_other_sentences(draft, draws, sentences)
    return draft


def _write_sentence(draft: Draft, draws: Draws, sentence: Sentence, form: str) -> None:
    value = draws.value(sentence.kind)
    text = spellings.capitalise(draws.pick(sentence.texts).replace("{value}", value))
    place = draft.add(form.format(text=text))
    wordings = (*find_wordings("mail.body"), *sentence.ask, *sentence.ask)
    draft.ask(wordings, value, place, key=sentence.key)


def _ask_other_sentences(draft: Draft, draws: Draws, sentences: Sequence[Sentence]) -> None:
    """Ask what sentences say that are not there."""
    others = [s for s in load_sentences("said") if s not in sentences and s.kind != "email"]
    for other in draws.some(others, 2):
        draft.ask_absent(("= {key}", "the {key}", *other.ask), other.key, key=other.key)


def write_http(draws: Draws) -> Draft:
    """Write the head of an HTTP request or response."""
    draft = Draft()
    if draws.chance(0.5):
        method, path = draws.value("method"), draws.value("endpoint")
        place = draft.add(f"{method} {path} HTTP/1.1")
        draft.ask("mail.method", method, place)
        draft.ask("mail.path", path, place)
        draft.ask_absent("mail.status")
    else:
        status = draws.value("http_status")
        draft.ask("mail.status", status, draft.add(f"HTTP/1.1 {status} {draws.word().title()}"))
        draft.ask_absent("mail.path")
        draft.ask_absent("mail.method")
    _write_heads(draft, draws, "http", draws.between(2, 9), "mail.head")
    return draft


def write_changelog(draws: Draws) -> Draft:
    """Write versions with their dates, and a change each."""
    draft, forms = Draft(), load_forms("changelog")
    if draws.chance(0.5):
        draft.add(draws.pick(forms["titles"]).format(draws.made_word()))
        draft.lead = 1
    form = draws.pick(forms["versions"])
    versions = draws.different("version", draws.between(1, 7))
    dates = draws.different("iso_date", len(versions))
    changes = draws.shuffled(load_patterns("changed"))
    tight = draws.chance(0.4)
    for version, date, change in zip(versions, dates, changes, strict=False):
        text = draws.fill(change)
        first = draft.add(form.format(version=version, date=date))
        last = draft.add(f"- {text}")
        if not tight:
            draft.gap()
        fill = {"version": version, "date": date, "change": text}
        draft.ask("changes.what", text, (first, last), **fill)
        draft.ask("changes.when", date, first, **fill)
        draft.ask("changes.back", version, first, **fill)
        draft.ask("changes.which", version, (first, last), **fill)
    for version in draws.other_names("version", versions):
        group = draws.pick(("changes.when", "changes.what"))
        draft.ask_absent(group, version, version=version)
    return draft


def write_glossary(draws: Draws) -> Draft:
    """Write terms with their meanings."""
    draft = Draft()
    form = draws.pick(load_forms("glossary")["terms"])
    terms = draws.different("term", draws.between(1, 9))
    for term, meaning in zip(terms, draws.different("meaning", len(terms)), strict=False):
        first = len(draft.pieces)
        for line in form.format(term=term, meaning=meaning).split("\n"):
            draft.add(line)
        lines = first, len(draft.pieces) - 1
        draft.ask("glossary.ask", meaning, lines, term=term)
        draft.ask("glossary.ask", meaning, lines, term=term)
        draft.ask("glossary.back", term, lines, meaning=meaning)
    for term in draws.other_names("term", terms):
        draft.ask_absent("glossary.ask", term, term=term)
    return draft


def write_notes(draws: Draws) -> Draft:
    """Write notes under headings, with a fact each."""
    draft, forms = Draft(), load_forms("notes")
    heading, form = draws.pick(forms["headings"]), draws.pick(forms["notes"])
    sentences = draws.shuffled(load_sentences("said"))[: draws.between(2, 12)]
    for number, sentence in enumerate(sentences):
        if number % 4 == 0 and draws.chance(0.8):
            if draft.pieces:
                draft.gap()
            draft.add(heading.format(spellings.capitalise(draws.word())))
        _write_sentence(draft, draws, sentence, form)
    _ask_other_sentences(draft, draws, sentences)
    return draft


def _write_heads(draft: Draft, draws: Draws, document: str, number: int, group: str) -> None:
    """Write some of a document's heads, and ask for them and for the others."""
    heads = load_heads(document)
    chosen = draws.some(heads, number)
    joint = draws.pick((": ", ": ", " : ", ":\t"))
    for key, kind in chosen:
        value = draws.value(kind)
        draft.ask(group, value, draft.add(key + joint + value), key=_speak(draws, key))
    kinds = {kind for _, kind in chosen}
    for key, kind in heads:
        if kind not in kinds:
            draft.ask_absent(group, f"{key}{joint}", key=_speak(draws, key))


def _speak(draws: Draws, key: str) -> str:
    """Return a key as people ask for it: as it is written, or in small letters."""
    return key if draws.chance(0.5) else key.lower()
