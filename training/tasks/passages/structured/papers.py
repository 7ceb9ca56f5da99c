"""Documents of everyday life: receipts, recipes, mails, changelogs, glossaries and notes."""

from collections.abc import Sequence

from training.tasks.passages.structured import formats
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.events import Sentence, filled, patterns, sentences
from training.tasks.passages.structured.page import Page
from training.tasks.passages.structured.records import other_names
from training.tasks.passages.structured.wordings import wordings

RECEIPT_HEADS = (
    ("Invoice no", "ticket"),
    ("Date", "date"),
    ("Customer", "person"),
    ("Cashier", "first"),
    ("Terminal", "code"),
    ("Due", "date"),
    ("VAT ID", "code"),
    ("Order", "code"),
    ("Payment", "ticket"),
    ("Store", "street"),
    ("Tel", "phone"),
    ("Seller", "company"),
)
RECEIPT_LINES = (
    "{count} x {item}  {price}",
    "{item}  {price}",
    "{item} x{count} ... {price}",
    "{count} {item} @ {price}",
    "| {count} | {item} | {price} |",
    "- {item} ({count}): {price}",
    "{item};{count};{price}",
    "{item}\t{count}\t{price}",
)
EACH = ("the price of one {item}", "how much is each of the {item}", "= {item} price each")
MAIL_HEADS = (
    ("From", "email", "mail.from"),
    ("To", "email", "mail.to"),
    ("Subject", "topic", "mail.subject"),
    ("Date", "iso_date", "mail.date"),
    ("Cc", "email", ""),
    ("Reply-To", "email", ""),
    ("Message-ID", "hexid", ""),
    ("X-Mailer", "made", ""),
    ("Organization", "company", ""),
    ("X-Ticket", "ticket", ""),
    ("Return-Path", "email", ""),
    ("X-Originating-IP", "ip", ""),
)
HTTP_HEADS = (
    ("Host", "domain_name"),
    ("User-Agent", "made"),
    ("Accept-Language", "spoken"),
    ("ETag", "hexid"),
    ("X-Request-ID", "uuid"),
    ("Server", "service"),
    ("Content-Length", "count"),
    ("Authorization", "secret"),
    ("Retry-After", "small"),
    ("X-RateLimit-Remaining", "count"),
    ("Location", "url"),
    ("Age", "count"),
    ("X-Forwarded-For", "ip"),
    ("Set-Cookie", "hexid"),
)
RECIPE_HEADS = (
    ("Serves", "small"),
    ("Oven", "temperature"),
    ("Total time", "minutes"),
    ("By", "person"),
    ("Calories", "count"),
    ("From", "city"),
)
RECIPE_LINES = (
    "- {amount} {item}",
    "{amount} {item}",
    "* {item}: {amount}",
    "{item} - {amount}",
    "• {amount} of {item}",
    "{item}\t{amount}",
)
VERSION_HEADS = (
    "## {version} ({date})",
    "## [{version}] - {date}",
    "{version} - {date}",
    "{date}: {version}",
    "### {version}, {date}",
    "Version {version} / {date}",
)
GLOSSARY_LINES = (
    "{term}: {meaning}",
    "{term} - {meaning}",
    "**{term}**: {meaning}",
    "{term} = {meaning}",
    "- {term} — {meaning}",
    "{term}\n    {meaning}",
    "{term} ({meaning})",
    "| {term} | {meaning} |",
)
NOTE_LINES = ("- {text}", "* {text}", "{text}", "• {text}", "- [ ] {text}", "{text}.")
NOTE_HEADINGS = ("## {}", "# {}", "{}:", "**{}**", "== {} ==")


def _heads(
    page: Page, draws: Draws, heads: Sequence[tuple[str, str]], number: int, group: str
) -> None:
    """Write lines of a key and a value, and note the keys that are not there."""
    chosen = draws.some(heads, number)
    joint = draws.pick((": ", ": ", " : ", ":\t"))
    for key, kind in chosen:
        value = draws.value(kind)
        page.ask(group, value, page.add(key + joint + value), key=_spoken(draws, key))
    kinds = {kind for _, kind in chosen}
    for key, kind in heads:
        if kind not in kinds:
            page.lack(group, f"{key}{joint}", key=_spoken(draws, key))


def _spoken(draws: Draws, key: str) -> str:
    return key if draws.chance(0.5) else key.lower()


def receipt(draws: Draws) -> Page:
    """Write a receipt or an invoice, whose total is right."""
    page = Page()
    _heads(page, draws, RECEIPT_HEADS, draws.between(0, 5), "receipt.head")
    if page.pieces:
        page.gap()
    pattern = draws.pick(RECEIPT_LINES)
    items = draws.different(draws.pick(("food", "product", "part", "dish")), draws.between(1, 9))
    currency = draws.pick(("{}", "{}", "${}", "{} €", "€{}", "{} EUR", "{} Kč"))
    cents = [draws.between(20, 9999) for _ in items]
    first = len(page.pieces)
    for item, price in zip(items, cents, strict=True):
        _receipt_line(page, draws, pattern, item, currency.format(f"{price / 100:.2f}"))
    if cents.count(cents[0]) == 1:
        page.ask("receipt.first", items[0], (first, len(page.pieces) - 1))
        page.ask("receipt.last", items[-1], (first, len(page.pieces) - 1))
    for item in other_names(draws, "food", items):
        page.lack("receipt.price", item, item=item)
    if draws.chance(0.7):
        total = currency.format(f"{sum(cents) / 100:.2f}")
        page.ask(
            "receipt.total",
            total,
            page.add(
                draws.pick(("Total: {}", "TOTAL  {}", "Sum {}", "Total due: {}", "= {}")).format(
                    total
                )
            ),
        )
    return page


def _receipt_line(page: Page, draws: Draws, pattern: str, item: str, price: str) -> None:
    fill = {"item": item, "price": price, "value": price, "count": str(draws.between(1, 40))}
    place = page.add(pattern.format_map(fill))
    page.ask(EACH if "@" in pattern else wordings("receipt.price"), price, place, **fill)
    if "{count}" in pattern:
        page.ask("receipt.count", fill["count"], place, **fill)
    if sum(price in piece for piece in page.pieces) == 1:
        page.ask("receipt.back", item, place, **fill)


def recipe(draws: Draws) -> Page:
    """Write a recipe: ingredients, and steps mostly."""
    page = Page()
    page.add(
        draws.pick(("# {}", "{}", "Recipe: {}", "## {}")).format(
            formats.capital(draws.value("dish"))
        )
    )
    page.lead = 1
    _heads(page, draws, RECIPE_HEADS, draws.between(0, 3), "recipe.head")
    pattern = draws.pick(RECIPE_LINES)
    items = draws.different("food", draws.between(2, 9))
    amounts = [draws.value(draws.pick(("weight", "volume", "small"))) for _ in items]
    for item, amount in zip(items, amounts, strict=True):
        place = page.add(pattern.format(item=item, amount=amount))
        page.ask("recipe.amount", amount, place, item=item)
        if sum(amount in other for other in amounts) == 1 and not amount.isdigit():
            page.ask("recipe.back", item, place, value=amount)
    for item in other_names(draws, "food", items):
        page.lack("recipe.amount", item, item=item)
    if draws.chance(0.6):
        page.gap()
        _steps(page, draws)
    return page


def _steps(page: Page, draws: Draws) -> None:
    form = draws.pick(("{}. {}", "{}) {}", "Step {}: {}"))
    steps = draws.shuffled(patterns("instructions"))[: draws.between(2, 6)]
    for number, step in enumerate(steps, start=1):
        text = filled(draws, step)
        page.ask(
            "recipe.step", text.rstrip("."), page.add(form.format(number, text)), number=str(number)
        )
    beyond = str(len(steps) + 1)
    page.lack("recipe.step", form.format(beyond, "").strip(), number=beyond)


def mail(draws: Draws) -> Page:
    """Write a mail: headers and some lines, each with a fact."""
    page = Page()
    chosen = draws.some(MAIL_HEADS, draws.between(2, 6))
    for key, kind, group in chosen:
        value = draws.value(kind)
        place = page.add(f"{key}: {value}")
        page.ask("mail.head", value, place, key=_spoken(draws, key))
        if group:
            page.ask(group, value, place)
    for key, kind, group in MAIL_HEADS:
        if (key, kind, group) not in chosen:
            page.lack("mail.head", f"{key}:", key=_spoken(draws, key))
    page.gap()
    said = draws.shuffled(sentences("said"))[: draws.between(0, 5)]
    if said:
        page.add(draws.pick(("Hi {},", "Dear {},", "Hello {},")).format(draws.first()))
    for sentence in said:
        _sentence(page, draws, sentence, "{text}.")
    if said:
        page.add(draws.pick(("Best,", "Regards,", "Cheers,", "Thanks,")))
        page.ask(
            ["who signed the mail", "who signs", "= signed by"],
            name := draws.first(),
            page.add(name),
        )
    _lack_sentences(page, draws, said)
    return page


def _sentence(page: Page, draws: Draws, sentence: Sentence, pattern: str) -> None:
    value = draws.value(sentence.kind)
    text = formats.capital(draws.pick(sentence.texts).replace("{value}", value))
    place = page.add(pattern.format(text=text))
    asked = (*wordings("mail.body"), *sentence.ask, *sentence.ask)
    page.ask(asked, value, place, key=sentence.key)


def _lack_sentences(page: Page, draws: Draws, said: Sequence[Sentence]) -> None:
    others = [s for s in sentences("said") if s not in said and s.kind != "email"]
    for other in draws.some(others, 2):
        page.lack(("= {key}", "the {key}", *other.ask), other.key, key=other.key)


def http(draws: Draws) -> Page:
    """Write the head of an HTTP request or answer."""
    page = Page()
    if draws.chance(0.5):
        method, path = draws.value("method"), draws.value("endpoint")
        place = page.add(f"{method} {path} HTTP/1.1")
        page.ask("mail.method", method, place)
        page.ask("mail.path", path, place)
        page.lack("mail.status")
    else:
        status = draws.value("http_status")
        page.ask("mail.status", status, page.add(f"HTTP/1.1 {status} {draws.word().title()}"))
        page.lack("mail.path")
        page.lack("mail.method")
    _heads(page, draws, HTTP_HEADS, draws.between(2, 9), "mail.head")
    return page


def changelog(draws: Draws) -> Page:
    """Write versions with their dates, and a change each."""
    page = Page()
    if draws.chance(0.5):
        page.add(
            draws.pick(("# Changelog", "Release notes", "# History of {}")).format(
                draws.made_word()
            )
        )
        page.lead = 1
    pattern = draws.pick(VERSION_HEADS)
    versions = draws.different("version", draws.between(1, 7))
    dates = draws.different("iso_date", len(versions))
    changes = draws.shuffled(patterns("changed"))
    tight = draws.chance(0.4)
    for version, date, change in zip(versions, dates, changes, strict=False):
        text = filled(draws, change)
        first = page.add(pattern.format(version=version, date=date))
        last = page.add(f"- {text}")
        if not tight:
            page.gap()
        fill = {"version": version, "date": date, "change": text}
        page.ask("changes.what", text, (first, last), **fill)
        page.ask("changes.when", date, first, **fill)
        page.ask("changes.back", version, first, **fill)
        page.ask("changes.which", version, (first, last), **fill)
    for version in other_names(draws, "version", versions):
        page.lack(
            draws.pick((wordings("changes.when"), wordings("changes.what"))),
            version,
            version=version,
        )
    return page


def glossary(draws: Draws) -> Page:
    """Write terms with their meanings."""
    page = Page()
    pattern = draws.pick(GLOSSARY_LINES)
    terms = draws.different("term", draws.between(1, 9))
    for term, meaning in zip(terms, draws.different("meaning", len(terms)), strict=False):
        first = len(page.pieces)
        for line in pattern.format(term=term, meaning=meaning).split("\n"):
            page.add(line)
        last = len(page.pieces) - 1
        page.ask("glossary.ask", meaning, (first, last), term=term)
        page.ask("glossary.ask", meaning, (first, last), term=term)
        page.ask("glossary.back", term, (first, last), meaning=meaning)
    for term in other_names(draws, "term", terms):
        page.lack("glossary.ask", term, term=term)
    return page


def notes(draws: Draws) -> Page:
    """Write notes under headings, each with a fact."""
    page = Page()
    heading, pattern = draws.pick(NOTE_HEADINGS), draws.pick(NOTE_LINES)
    said = draws.shuffled(sentences("said"))[: draws.between(2, 12)]
    for number, sentence in enumerate(said):
        if number % 4 == 0 and draws.chance(0.8):
            if page.pieces:
                page.gap()
            page.add(heading.format(formats.capital(draws.word())))
        _sentence(page, draws, sentence, pattern)
    _lack_sentences(page, draws, said)
    return page
