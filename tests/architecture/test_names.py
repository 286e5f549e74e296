"""One name, one thing: a public class of the shipped packages has a name of its own."""

from collections.abc import Iterator, Sequence

from tests.architecture.source_tree import SourceModule, classes_of, parse_module, sources


def name_faults(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield each public class whose name another module has used before."""
    homes: dict[str, str] = {}
    for module in modules:
        for item in classes_of(module):
            if item.name.startswith("_"):
                continue
            home = homes.setdefault(item.name, module.name)
            if home != module.name:
                yield f"{module.path}:{item.lineno} {item.name} is a class of {home}"


def test_each_class_has_a_name_of_its_own() -> None:
    """A reader who meets a name need not ask which of two it is."""
    faults = list(name_faults(sources()))
    assert not faults, "\n" + "\n".join(faults)


def test_a_second_class_of_one_name_is_found() -> None:
    """The check can fail; what is private to a module may be called as something elsewhere."""
    text = "class Room: ...\nclass _Work: ...\n"
    first, second = parse_module("homeserver.a", text), parse_module("e2ee.b", text)
    assert list(name_faults([first, second])) == ["e2ee/b.py:1 Room is a class of homeserver.a"]
