"""Strategies that damage JSON at random."""

from typing import Any

from hypothesis import strategies as st

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 50)
    | st.integers()
    | st.sampled_from([10**400, 2**63, 1e308])
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["llama", "gpt2", "mamba", "t5", "yarn", "linear", "gelu", "float16"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


def replace_value(data: st.DataObject, tree: Any) -> Any:
    """Replace, add or delete a value somewhere in a tree of JSON, in place; return the tree."""
    if not isinstance(tree, dict | list) or not tree or data.draw(st.integers(0, 5)) == 0:
        return data.draw(VALUES)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = data.draw(st.sampled_from(keys))
    action = data.draw(st.sampled_from(["below", "below", "add", "delete"]))
    if action == "delete":
        del tree[key]
    elif action == "add" and isinstance(tree, dict):
        tree[data.draw(st.text(max_size=9))] = data.draw(VALUES)
    else:
        tree[key] = replace_value(data, tree[key])
    return tree
