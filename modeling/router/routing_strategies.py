"""Probabilities of languages to rows of weights over their adapters: every strategy is such a matrix.

A row is what one clip takes of each label's adapter, `y = W x + sum_i row[i] * scaling_i * B_i A_i x` in
every layer. A one-hot row is one adapter, a row of zeros none, which is the base: any batch is one forward.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...configuration.configuration_router import BASE, RouterConfig


def hard(probabilities: Tensor, config: RouterConfig) -> Tensor:
    """The likeliest label alone; the first of equals."""
    return F.one_hot(probabilities.argmax(dim=-1), probabilities.shape[-1]).to(probabilities.dtype)


def soft(probabilities: Tensor, config: RouterConfig) -> Tensor:
    """All labels by their probability: the exact mixture of the adapted outputs of every layer.

    It is no mixture of whole-network outputs, which would need a decoder pass for each label.
    """
    return probabilities


def threshold(probabilities: Tensor, config: RouterConfig) -> Tensor:
    """Hard above `threshold`, otherwise the `top_k` likeliest, rescaled to add up to 1; row by row."""
    best, places = probabilities.topk(min(config.top_k, probabilities.shape[-1]), dim=-1)
    mixture = torch.zeros_like(probabilities).scatter(-1, places, best / best.sum(dim=-1, keepdim=True))
    return torch.where(best[:, :1] > config.threshold, hard(probabilities, config), mixture)


def hierarchical(probabilities: Tensor, config: RouterConfig) -> Tensor:
    """The likeliest family, by the sum over its labels, and in it the likeliest label alone.

    Related labels share what evidence there is: together they win over a stranger that beats each of them.
    """
    if config.families is None:
        raise ValueError(f"hierarchical routing needs families; this router of {config.labels} has none")
    member = probabilities.new_tensor(
        [[label in family for label in config.labels] for family in config.families.values()]
    )
    # B, L @ L, families -> B
    family = (probabilities @ member.T).argmax(dim=-1)
    return hard(probabilities.masked_fill(member[family] == 0, -1), config)


def base(probabilities: Tensor, config: RouterConfig) -> Tensor:
    """No adapter for anybody."""
    return torch.zeros_like(probabilities)


STRATEGIES: dict[str, Callable[[Tensor, RouterConfig], Tensor]] = {
    "hard": hard,
    "soft": soft,
    "threshold": threshold,
    "hierarchical": hierarchical,
    "base": base,
}


def routing_rows(probabilities: Tensor, strategy: str | None, config: RouterConfig) -> Tensor:
    """[B, labels] -> [B, labels] weights; `strategy` None is the checkpoint's own.

    Rows whose greatest probability is below `config.floor` are zero, under every strategy.
    """
    strategy = config.strategy if strategy is None else strategy
    if strategy not in STRATEGIES:
        raise ValueError(f"no routing strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    sure = probabilities.amax(dim=-1, keepdim=True) >= config.floor
    rows = STRATEGIES[strategy](probabilities, config)
    # No product: a clip whose probabilities are NaN goes to the base, too.
    return torch.where(sure, rows, 0)


def oracle_rows(languages: Sequence[str], labels: Sequence[str], device=None) -> Tensor:
    """[B, labels] one-hot rows of the languages a caller names; "base" is a row of zeros."""
    places = {label: index for index, label in enumerate(labels)}
    unknown = sorted({str(language) for language in languages if language not in {*places, BASE}})
    if unknown:
        raise ValueError(f"no adapter for {', '.join(unknown)}; there are {', '.join(labels)} and {BASE!r}")
    chosen = torch.tensor([places.get(language, len(labels)) for language in languages], device=device)
    return F.one_hot(chosen.long(), len(labels) + 1)[:, :-1].float()


def rows_over_bank(rows: Tensor, labels: Sequence[str], names: Sequence[str]) -> Tensor:
    """[B, labels] -> [B, adapters]: the columns by the adapters' names.

    The share of a label without an adapter stays with the base; an adapter that is no label gets nothing.
    """
    if not set(labels) & set(names):
        raise ValueError(
            f"the router tells {', '.join(labels)} apart, and the adapters are {', '.join(names) or 'none'}: "
            "no name in common"
        )
    place = rows.new_tensor([[label == name for name in names] for label in labels])
    return rows @ place
