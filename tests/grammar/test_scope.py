"""What names mean: one that is used in its own definition means nothing yet."""

import pytest

from irgrow.errors import ProgramError
from irgrow.grammar import parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "net n(x: [4]) { h = x |> dense(8)  a = a |> dense(8)  out = (h + a) |> dense(2)  aux = dense(h, 3)  return out, aux }",
            "a",
        ),
        ("net n(x: [4], w = w) { return x |> dense(3), x |> dense(w) }", "w"),
        ("block q(x, w = w) { return dense(x, w) }  net n(x: [4]) { return x |> dense(3), x |> q }", "w"),
        ("net n(x: [4]) { a = relu(a)  return dense(x, 2) }", "a"),
    ],
)
def test_a_name_in_its_own_definition_is_an_error(text, name):
    with pytest.raises(ProgramError, match=f"`{name}` is used in its own definition"):
        parse(text)
