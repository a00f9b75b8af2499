"""The settings of each method, checked. Where paper and published code differ, `variant` names the choice."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Mixing = Literal["t5", "proportional", "log", "equal"]


class Settings(BaseModel):
    """A block of settings that refuses a name it does not know and suggests the one that was meant."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            # Located at the name itself, so that a message about a block inside another one has its whole path.
            raise ValidationError.from_exception_data(cls.__name__, [cls._unknown(str(name)) for name in unknown])
        return given

    @classmethod
    def _unknown(cls, name: str) -> InitErrorDetails:
        near = get_close_matches(name, cls.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
        message = PydanticCustomError("unknown_setting", "unknown setting; {hint}", {"hint": hint})
        return {"type": message, "loc": (name,), "input": {}}


class Presets(Settings):
    """Settings with names for several at once: `variant` fills in what is not given, `ablation` fixes what it names."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = cls.variants.get(str(given.get("variant")), {}) | given
        for name, value in cls.ablations.get(str(given.get("ablation")), {}).items():
            if given.setdefault(name, value) != value:
                raise ValueError(f"ablation {given['ablation']!r} means {name}={value!r}, got {name}={given[name]!r}")
        return given


class RelatedConfig(Settings):
    """Which sources count as related to a target, for methods that transfer from these only."""

    own_fraction: float = Field(
        0.25, gt=0, lt=1, description="share of the target's budget whose prompt tuning shows which sources are related"
    )
    level: float = Field(
        0.75,
        ge=-1,
        le=1,
        description="of the sign-flip test: a related source's z is at least this share of its maximum, sqrt(L)",
    )
    join_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.5, 1.0),
        min_length=1,
        description="shares w of what joins that are tried, P_init + (1 - w) T_t + w * mean T_s; the one of least loss "
        "on the next two batches is taken, at a cost of an update for every three batches read",
    )


TransferFrom = Annotated[
    Literal["all", "related"],
    Field(description="sources used: all, or those that pass the test of `related`; none pass: prompt tuning"),
]


class MultiPTConfig(Settings):
    """Multi-task prompt tuning: one prompt on a mixture of the sources, then on the target."""

    source_updates: int | None = Field(None, ge=1, description="updates on the mixture; none: source_updates")
    source_epochs: float | None = Field(None, gt=0, description="epochs over the mixture, in place of source_updates")
    mixing: Mixing = Field("t5", description="share of each source in the mixture")


class SPoTConfig(Settings):
    """SPoT (Vu et al. 2022): start from the most similar source prompt, or from a mean of several."""

    own_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of target_updates spent on the target's own prompt, needed to choose the source",
    )
    top: int = Field(
        1, ge=1, description="how many of the most similar source prompts the start is the mean of, weighted by cosine"
    )


class TPVConfig(Settings):
    """Task prompt vectors (Belanec et al. 2024): start from P_init + scale * sum of task vectors of sources."""

    combine: Literal["pair", "top", "all"] = Field(
        "pair",
        description="whose vectors are added: the pair of sources with the least loss on the target's training rows "
        "before any update (pairs, as in the published code), so many single sources chosen so (top), or all",
    )
    top: int = Field(2, ge=1, description="sources of combine 'top'")
    scale: float = Field(1.0, description="factor of the sum")
    tune: bool = Field(True, description="go on training on the target; else the sum itself is the result")


class ATTEMPTConfig(Presets):
    """ATTEMPT (Asai et al. 2022): every row attends to the source prompts and the target's own."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {"code": {"mask_padding": False, "train_norm": False}}

    variant: Literal["paper", "code"] = Field(
        "paper",
        description="code: padding takes part in the maximum over the text (mask_padding false), and LayerNorm is "
        "frozen (train_norm false)",
    )
    mask_padding: bool = Field(True, description="leave padding out of the maximum over the text's embeddings")
    train_norm: bool = Field(True, description="train the weights of the attention's LayerNorm")
    projection: int = Field(100, ge=1, description="width between W_down and W_up")
    temperature: float | None = Field(None, gt=0, description="tau of the attention; none: e * hidden size")
    start: Literal["first_source", "p_init"] = Field("first_source", description="start of the target's prompt")
    attention_learning_rate: float | None = Field(
        None, gt=0, description="rate of W_down, W_up and LayerNorm; none: that of the prompt, as in the published runs"
    )


class MPTConfig(Presets):
    """MPT (Wang et al. 2023): teachers, decomposition, distillation, stochastic task sampling."""

    # What the published code does where the paper leaves it open or says otherwise: PEFT's parametrisation.
    variants: ClassVar[dict[str, dict[str, Any]]] = {"code": {"average": "means", "factor_start": "normal"}}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "no-distillation": {"distillation": 0.0},
        "no-decomposition": {"decomposition": False},
        "neither": {"decomposition": False, "distillation": 0.0},
        "no-hidden": {"hidden": "none"},
        "prompt-mse": {"distilled": "prompts"},
        "no-sampling": {"sampling": "rows"},
        "shared-only": {"trained": "shared"},
        "frozen-vectors": {"trained": "frozen-vectors"},
        "vectors-only": {"trained": "factors"},
    }

    variant: Literal["paper", "code"] = Field(
        "paper", description="code: average 'means' and factor_start 'normal', unless they are given"
    )
    ablation: Literal[
        "none",
        "no-distillation",
        "no-decomposition",
        "neither",
        "no-hidden",
        "prompt-mse",
        "no-sampling",
        "shared-only",
        "frozen-vectors",
        "vectors-only",
    ] = Field(
        "none",
        description="an ablation of the paper (its table 6 and section 4.3); neither: no decomposition, no "
        "distillation; frozen-vectors is ours",
    )
    rank: int = Field(1, ge=1, description="rank R of the task factors u (L, R) and v (R, H)")
    decomposition: bool = Field(True, description="P_k = P* o (u_k v_k); else one prompt for all sources")
    factor_start: Literal["ones", "normal"] = Field(
        "ones", description="first u and v: P_k starts at P* (ones), or N(0, 0.02^2) (normal; erases P_init nearly)"
    )
    source_updates: int | None = Field(
        None, ge=1, description="updates of the joint source stage; none: source_updates"
    )
    source_epochs: float | None = Field(
        None, gt=0, description="epochs of the joint source stage over the mixed sources, in place of source_updates"
    )
    distillation: float = Field(0.9, ge=0, description="lambda: weight of the two distillation losses (eq. 5)")
    distilled: Literal["outputs", "prompts"] = Field(
        "outputs", description="the teachers' outputs, or (prompts) a mean squared distance to the teacher prompts"
    )
    logits: bool = Field(True, description="distil the teacher's output distribution (eq. 3)")
    hidden: Literal["none", "last", "all"] = Field("last", description="hidden layers that are distilled (eq. 4)")
    hidden_positions: Literal["text", "all"] = Field("text", description="positions distilled: the text, or prompt too")
    temperature: float = Field(1.0, gt=0, description="softening T of both distributions in eq. 3")
    temperature_squared: bool = Field(False, description="multiply eq. 3 by T^2, so that T leaves its gradient's size")
    teacher_cache: Literal["auto", "always", "never"] = Field(
        "auto", description="keep the teachers' outputs on disk; auto: where that is measured to be faster"
    )
    teacher_cache_gb: float = Field(2.0, gt=0, description="largest file of teacher outputs that auto writes")
    sampling: Literal["stochastic", "rows"] = Field(
        "stochastic", description="K ~ U{2..T} tasks per batch, or every row's task drawn by itself"
    )
    replacement: bool = Field(True, description="draw the tasks of a batch with replacement")
    mixing: Mixing = Field("t5", description="probabilities of the task draw")
    average: Literal["fit", "means"] = Field(
        "fit", description="start of the target's factors: rank-R fit of the mean u_k v_k, or means of u and of v"
    )
    trained: Literal["both", "shared", "factors", "frozen-vectors"] = Field(
        "both",
        description="what trains on the target: P*, u and v; P* without u and v (shared); u and v (factors); P* with "
        "u and v as they start (frozen-vectors)",
    )
    transfer_from: TransferFrom = "all"
    shared_learning_rate: float | None = Field(
        None,
        gt=0,
        description="rate of the joint source stage and, on the target, of the shared prompt; none: learning_rate and "
        "target_learning_rate",
    )
    factor_learning_rate: float | None = Field(
        None, gt=0, description="target rate of u and v; none: 4/3 of the shared prompt's (0.4 : 0.3 in the paper)"
    )

    @property
    def teaches(self) -> bool:
        """Whether the source stage needs teachers."""
        outputs = self.logits or self.hidden != "none"
        return self.distillation > 0 and (self.distilled == "prompts" or outputs)


class BMTPTConfig(Settings):
    """BMTPT (Lee et al. 2023): SVGD particles of the source posterior, used as start and prior of the target."""

    particles: int = Field(4, ge=1, description="number M of particles")
    source_updates: int | None = Field(None, ge=1, description="SVGD updates; none: source_updates")
    source_epochs: float | None = Field(
        None, gt=0, description="epochs of SVGD over the mixed sources, in place of source_updates"
    )
    rows: int | None = Field(
        None, ge=1, description="rows per SVGD update, seen by every particle; none: batch_size / 2"
    )
    sources_per_update: int | None = Field(
        None, ge=1, description="sources drawn at random for an SVGD update; none: rows of all of them"
    )
    particles_per_forward: int | None = Field(
        None,
        ge=1,
        description="particles read at once, with no effect on the result; none: one on a CPU, elsewhere as many as "
        "memory holds",
    )
    parallel: Literal["rows", "particles"] = Field(
        "rows",
        description="what several processes share in an SVGD update: the rows of a batch, or the particles; with no "
        "effect on the result",
    )
    spread: float = Field(
        0.2, ge=0, description="start: P_init + N(0, s^2), s = spread * std of P_init; first one P_init"
    )
    bandwidth: float | Literal["liu2016", "numpyro", "blackjax"] = Field("liu2016", description="h in exp(-d^2/h)")
    per_token: bool = Field(False, description="one kernel per prompt token instead of one over the whole prompt")
    evidence: Annotated[float, Field(gt=0)] | Literal["all"] = Field(
        100.0,
        description="tempering: rows of evidence that the mean source loss stands for in log p(D|theta); all: the "
        "sources' training rows, with weights 'proportional' the untempered posterior",
    )
    weights: Literal["uniform", "proportional"] = Field(
        "uniform", description="weight of each source in the likelihood"
    )
    source_prior: Literal["flat", "gaussian"] = Field("flat", description="p(theta) of the source posterior")
    source_prior_std: float = Field(1.0, gt=0, description="std of the gaussian source prior around P_init")
    transfer_from: TransferFrom = "all"
    aggregation: Literal["mean", "best", "best-on-validation", "kernel-weighted"] = Field(
        "mean",
        description="start of the target prompt: mean of the particles, the one of least loss on the target's training "
        "rows, the one of the highest score on its validation rows (which have labels: no longer few-shot), or their "
        "mean weighted by kernel density",
    )
    parametrisation: Literal["factored", "full"] = Field(
        "factored", description="target prompt: full-rank matrix times low-rank factors that start at one, or without"
    )
    rank: int = Field(1, ge=1, description="rank of the target's factors")
    full_rank_learning_rate: float | None = Field(
        None, gt=0, description="rate of the full-rank part; none: target_learning_rate"
    )
    low_rank_learning_rate: float | None = Field(
        None, gt=0, description="rate of the low-rank factors; none: 4/3 of the full-rank part's"
    )
    prior: Literal["none", "gaussian", "mixture"] = Field("gaussian", description="form of the target's prior")
    prior_std_floor: float = Field(0.05, gt=0, description="smallest std of the target prior, in embedding units")
    beta: float = Field(1e-3, ge=0, description="weight of -log prior against the summed target loss")


class DTVGConfig(Presets):
    """DTVG (2025): task vectors from one start, per-token scales, group chosen anew at every forward."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"rule": "best-prefix"}}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "positive-filter": {"rule": "positive"},
        "max-consistency": {"rule": "consistent-subset", "positive_only": False},
        "target-only": {"grouping": "none"},
        "no-grouping": {"grouping": "all"},
        "fixed-group": {"grouping": "fixed"},
        "spot": {"grouping": "spot"},
        "dynamic-spot": {"grouping": "spot"},
        "no-scaling": {"scaling": "none"},
    }

    variant: Literal["paper", "code"] = Field(
        "code", description="paper: rule best-prefix (similarity + lambda x consistency), unless it is given"
    )
    ablation: Literal[
        "none",
        "positive-filter",
        "max-consistency",
        "target-only",
        "no-grouping",
        "fixed-group",
        "spot",
        "dynamic-spot",
        "no-scaling",
    ] = Field(
        "none",
        description="an ablation of the published code, where spot and dynamic-spot compute the same; no-scaling is "
        "ours",
    )
    own_fraction: float = Field(
        0.5, gt=0, lt=1, description="share of target_updates that trains the target's own vector"
    )
    own_updates: int | None = Field(
        None,
        ge=1,
        description="updates of the target's own vector, on top of the target's budget, and so of that of every "
        "method; the budget is then all the transfer stage's; none: own_fraction",
    )
    own_epochs: float | None = Field(
        None, gt=0, description="the same in epochs over the target's training rows, in place of own_updates"
    )
    own_batch_size: int | None = Field(
        None,
        ge=1,
        description="rows per update of own_updates or own_epochs, for every method; none: batch_size, that of the "
        "transfer stage",
    )
    own_learning_rate: float | None = Field(
        None, gt=0, description="rate of the target's own vector; none: target_learning_rate"
    )
    weight_decay: float | None = Field(None, ge=0, description="decay of the transfer stage; none: weight_decay")
    grouping: Literal["dynamic", "fixed", "all", "none", "spot", "related"] = Field(
        "dynamic",
        description="group chosen at every forward, at the first one, or all or none of the sources; spot: no merging, "
        "prompt tuning from the source prompt nearest to the target's own; related: sources that pass the test of "
        "`related` join prompt tuning, our own form",
    )
    rule: Literal["consistent-prefix", "best-prefix", "best-subset", "consistent-subset", "positive", "nearest"] = (
        Field(
            "consistent-prefix",
            description="which group: prefix of the ranking by similarity to the target, or any subset; best: largest "
            "similarity + lambda x consistency, consistent: largest consistency",
        )
    )
    consistency_weight: float = Field(1.0, ge=0, description="lambda of the best-prefix and best-subset rules")
    positive_only: bool = Field(True, description="only sources of similarity >= 0 to the target may be merged")
    metric: Literal["token_mean_dot", "cosine", "token_mean_cosine"] = Field(
        "token_mean_dot", description="similarity of the scaled task vectors"
    )
    scaling: Literal["per-token", "scalar", "none"] = Field(
        "per-token", description="trained factors alpha of the merged vectors: one per token, one per vector, or none"
    )
    scale_start: Literal["one", "mean"] = Field(
        "one", description="first alpha: one (sum of the vectors, as published), or 1 / size of the first group (mean)"
    )
    target_scale_learning_rate: float | None = Field(None, ge=0, description="rate of alpha_t; none: learning_rate")
    source_scale_learning_rate: float | None = Field(None, ge=0, description="rate of alpha_s; none: learning_rate")

    @model_validator(mode="after")
    def _own_batches(self) -> DTVGConfig:
        if self.own_batch_size is not None and self.own_updates is None and self.own_epochs is None:
            raise ValueError("own_batch_size is of own_updates or own_epochs; got neither, give one")
        return self
