"""Effects as data: fields with bounds, filled from a recipe's mapping, wrong ones refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from speechllm.configuration.configuration_strict import refuse_unknown, suggest

from .levels import check_snr

Range = tuple[float, float]
Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Fields:
    """Whatever a mapping of a recipe describes."""

    @classmethod
    def from_mapping(cls, name: str, values: Any) -> Self:
        """From `{"field": value}`; `name` is what errors call it."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{name} takes fields such as {{'probability': 0.5}}, not {values!r}")
        checks = {item.name: item.metadata["check"] for item in fields(cls)}
        refuse_unknown(name, values, checks)
        return cls(**{key: checks[key](f"{name}.{key}", value) for key, value in values.items()})


def number(lowest: float, highest: float, default: float) -> Any:
    """A field that is one number within bounds."""
    return _checked(default, _number_check(lowest, highest))


def count(lowest: int, highest: int, default: int) -> Any:
    """A field that is a whole number within bounds."""
    return _checked(default, _number_check(lowest, highest, kinds=(int,)))


def between(lowest: float, highest: float, default: Range) -> Any:
    """A field that is a range to draw from; one number is a range of itself."""
    return _checked(default, _range_check(_number_check(lowest, highest)))


def snr_range(default: Range) -> Any:
    """A field that is a range of ratios in dB."""
    return _checked(default, _range_check(_snr_check))


def one_of(numbers: tuple[float, ...], lowest: float, highest: float) -> Any:
    """A field that lists numbers, of which one is drawn."""
    return _checked(numbers, _list_check(_number_check(lowest, highest)))


def chosen_from(known: Iterable[str], default: tuple[str, ...]) -> Any:
    """A field that lists names out of `known`, of which one is drawn."""
    return _checked(default, _list_check(_name_check(tuple(known))))


def path(default: str | None = None) -> Any:
    """A field that names a folder, or nothing."""
    return _checked(default, _path_check)


def _checked(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


def _number_check(lowest: float, highest: float, kinds: tuple[type, ...] = (int, float)) -> Check:
    def check(name: str, value: Any) -> float:
        # By type, as True is an int too; and a NaN lies within no bounds.
        if type(value) not in kinds or not lowest <= value <= highest:
            kind = "a whole number" if float not in kinds else "a number"
            raise ValueError(f"{name} is {value!r}; it takes {kind} from {lowest:g} to {highest:g}")
        return value

    return check


def _snr_check(name: str, value: Any) -> float:
    number = _number_check(float("-inf"), float("inf"))(name, value)
    check_snr(name, number)
    return number


def _range_check(bounded: Check) -> Check:
    def check(name: str, value: Any) -> Range:
        ends = _as_list(name, value) if isinstance(value, (Sequence, str)) else [value, value]
        if len(ends) != 2:
            raise ValueError(f"{name} is {ends}; it takes two numbers, or one")
        low, high = (bounded(name, end) for end in ends)
        if low > high:
            raise ValueError(f"{name} is {[low, high]}; the lower end comes first")
        return low, high

    return check


def _list_check(member: Check) -> Check:
    def check(name: str, value: Any) -> tuple:
        members = tuple(member(name, one) for one in _as_list(name, value))
        if not members:
            raise ValueError(f"{name} is empty; give it something to draw from")
        return members

    return check


def _name_check(known: tuple[str, ...]) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in known:
            raise ValueError(f"{name} has no {value!r}; {suggest(str(value), known)}")
        return value

    return check


def _path_check(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; it takes the path of a folder")
    return value


def _as_list(name: str, value: Any) -> list:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{name} is {value!r}; it takes a list")
    return list(value)
