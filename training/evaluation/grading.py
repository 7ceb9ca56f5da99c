"""How right an answer is.

Normalised exact match and F1 are those of SQuAD's evaluation script (Rajpurkar et al., 2016, arXiv
1606.05250, section 6.1): lower case, no punctuation, no articles, blanks as one, the best of all
right answers.
"""

import re
import string
from collections import Counter

from training.tasks import Question

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """A text without case, punctuation, articles and spare blanks."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(said: str, question: Question, *, normalised: bool) -> bool:
    """Whether an answer is one of the right ones.

    Args:
        said: The answer.
        question: What was asked.
        normalised: Compare normalised texts.
    """
    right = (question.answer, *question.also_right)
    if not normalised:
        return said in right
    return normalise(said) in map(normalise, right)


def f1(said: str, question: Question) -> float:
    """Harmonic mean of precision and recall of the normalised words, 0 to 1."""
    return max(_overlap(said, right) for right in (question.answer, *question.also_right))


def _overlap(said: str, right: str) -> float:
    ours, theirs = normalise(said).split(), normalise(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
