"""The settings of a run, checked. The defaults are the demo: SmolLM2-135M, three sources, three few-shot targets."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

METHODS = ("PT", "SPoT", "MPT", "BMTPT", "DTVG")


class Settings(BaseModel):
    """A block of settings that refuses a name it does not know and suggests the one that was meant."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name in given:
                if name not in cls.model_fields:
                    near = get_close_matches(str(name), cls.model_fields, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(cls.model_fields)}"
                    raise ValueError(f"unknown setting {name!r}{hint}")
        return given


class SPoTConfig(Settings):
    """SPoT (Vu et al. 2022): start from the most similar source prompt."""

    own_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of target_updates spent on the target's own prompt, needed to choose the source",
    )


class MPTConfig(Settings):
    """MPT (Wang et al. 2023): teachers, decomposition, distillation, stochastic task sampling."""

    rank: int = Field(1, ge=1, description="rank R of the task factors u (L, R) and v (R, H)")
    source_updates: int | None = Field(
        None, ge=1, description="updates of the joint source stage; none: source_updates"
    )
    distillation: float = Field(0.9, ge=0, description="lambda: weight of the two distillation losses (eq. 5)")
    logits: bool = Field(True, description="distil the teacher's output distribution (eq. 3)")
    hidden: Literal["none", "last", "all"] = Field("last", description="hidden layers that are distilled (eq. 4)")
    hidden_positions: Literal["text", "all"] = Field("text", description="positions distilled: the text, or prompt too")
    temperature: float = Field(1.0, gt=0, description="softening of both distributions in eq. 3")
    replacement: bool = Field(True, description="draw the tasks of a batch with replacement")
    mixing: Literal["t5", "proportional", "log", "equal"] = Field("t5", description="probabilities of the task draw")
    shared_learning_rate: float | None = Field(None, gt=0, description="rate of the shared prompt; none: learning_rate")
    factor_learning_rate: float | None = Field(
        None, gt=0, description="target rate of u and v; none: 4/3 of learning_rate (0.4 : 0.3 in the paper)"
    )


class BMTPTConfig(Settings):
    """BMTPT (Lee et al. 2023): SVGD particles of the source posterior, used as start and prior of the target."""

    particles: int = Field(4, ge=1, description="number M of particles")
    source_updates: int | None = Field(None, ge=1, description="SVGD updates; none: source_updates")
    rows: int | None = Field(
        None, ge=1, description="rows per SVGD update, seen by every particle; none: batch_size / 2"
    )
    spread: float = Field(
        0.2, ge=0, description="start: P_init + N(0, s^2), s = spread * std of P_init; first one P_init"
    )
    bandwidth: float | Literal["liu2016", "numpyro", "blackjax"] = Field("liu2016", description="h in exp(-d^2/h)")
    per_token: bool = Field(False, description="one kernel per prompt token instead of one over the whole prompt")
    evidence: float = Field(
        100.0, gt=0, description="tempering: rows of evidence that the mean source loss stands for in log p(D|theta)"
    )
    weights: Literal["uniform", "proportional"] = Field(
        "uniform", description="weight of each source in the likelihood"
    )
    source_prior: Literal["flat", "gaussian"] = Field("flat", description="p(theta) of the source posterior")
    source_prior_std: float = Field(1.0, gt=0, description="std of the gaussian source prior around P_init")
    aggregation: Literal["mean", "first"] = Field("mean", description="start of the target prompt from the particles")
    prior: Literal["none", "gaussian", "mixture"] = Field("gaussian", description="form of the target's prior")
    prior_std_floor: float = Field(0.05, gt=0, description="smallest std of the target prior, in embedding units")
    beta: float = Field(1e-3, ge=0, description="weight of -log prior against the summed target loss")


class DTVGConfig(Settings):
    """DTVG (2025): task vectors from one start, per-token scales, group chosen anew at every forward."""

    own_fraction: float = Field(
        0.5, gt=0, lt=1, description="share of target_updates that trains the target's own vector"
    )
    grouping: Literal["dynamic", "fixed", "all", "none"] = Field("dynamic", description="which sources are merged")
    target_scale_learning_rate: float | None = Field(None, ge=0, description="rate of alpha_t; none: learning_rate")
    source_scale_learning_rate: float | None = Field(None, ge=0, description="rate of alpha_s; none: learning_rate")


class RunConfig(Settings):
    """Everything a comparison needs. Two runs with equal settings do the same work and share its results."""

    model: str = Field("demo", description="'demo', a hub id, or a local folder of a causal or seq2seq model")
    sources: tuple[str, ...] = Field(("amazon", "tweets", "r8"), description="source tasks: demo names or files")
    targets: tuple[str, ...] = Field(("sst2", "nyt", "subjectivity"), description="target tasks: demo names or files")
    methods: tuple[Literal["PT", "SPoT", "MPT", "BMTPT", "DTVG"], ...] = Field(METHODS, min_length=1)
    seeds: tuple[int, ...] = Field(
        (42,), min_length=1, description="repetitions: few-shot rows and order of the batches"
    )
    retrain_sources: bool = Field(
        False, description="new P_init and sources for every seed; else those of the first seed"
    )
    prompt_length: int = Field(16, ge=1, description="prompt tokens L")
    init: Literal["vocabulary", "text", "uniform"] = Field(
        "vocabulary", description="start P_init, shared by all tasks"
    )
    init_text: str = Field("", description="text whose embeddings, repeated, fill P_init when init is 'text'")
    train_rows: int = Field(32, ge=1, description="few-shot rows per target, in total")
    test_rows: int = Field(200, ge=1, description="test rows per task")
    source_rows: int = Field(2000, ge=1, description="training rows per source")
    source_updates: int = Field(40, ge=1, description="optimizer updates of a source stage")
    target_updates: int = Field(16, ge=1, description="optimizer updates on target rows, the same for every method")
    batch_size: int = Field(8, ge=1, description="rows per target update")
    source_batch_size: int = Field(10, ge=1, description="rows per source update")
    eval_batch_size: int = Field(32, ge=1, description="rows per forward when scoring")
    learning_rate: float = Field(0.02, gt=0, description="peak AdamW rate of a prompt in a source stage")
    target_learning_rate: float | None = Field(None, gt=0, description="peak rate on target rows; none: learning_rate")
    weight_decay: float = Field(1e-5, ge=0)
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the updates with rising rate")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="rate after the warm-up"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradient clipping; 0: none")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="type of the frozen model's products")
    max_length: int = Field(64, ge=1, description="text tokens kept (the last ones) of a row")
    checkpoint_updates: int = Field(10, ge=1, description="updates between two checkpoints of a stage")
    output: Path = Field(Path("runs/demo"), description="run folder")
    cache: Path | None = Field(None, description="store of finished stages; none: $PROMPTTRANSFER_CACHE or ~/.cache")
    text_column: str = Field("text", description="text column of task files")
    label_column: str = Field("label", description="label column of task files")
    spot: SPoTConfig = Field(default_factory=SPoTConfig)
    mpt: MPTConfig = Field(default_factory=MPTConfig)
    bmtpt: BMTPTConfig = Field(default_factory=BMTPTConfig)
    dtvg: DTVGConfig = Field(default_factory=DTVGConfig)

    @field_validator("sources", "targets", "methods", "seeds")
    @classmethod
    def _no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"named more than once: {', '.join(twice)}")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if not self.targets:
            raise ValueError("targets is empty; name at least one target task")
        needing = [method for method in self.methods if method != "PT"]
        if needing and not self.sources:
            raise ValueError(
                f"sources is empty, but {', '.join(needing)} transfer from source tasks; name some or use PT"
            )
        if self.init == "text" and not self.init_text.strip():
            raise ValueError("init is 'text' but init_text is empty")
        for method, fraction in (("SPoT", self.spot.own_fraction), ("DTVG", self.dtvg.own_fraction)):
            if method in self.methods and not 0 < round(fraction * self.target_updates) < self.target_updates:
                raise ValueError(
                    f"target_updates={self.target_updates} with {method.lower()}.own_fraction={fraction} leaves no "
                    f"updates to a stage of {method}"
                )
        return self

    @property
    def transfers(self) -> bool:
        """Whether a method learns from the sources at all; plain prompt tuning does not."""
        return set(self.methods) != {"PT"}

    @property
    def target_rate(self) -> float:
        """Peak learning rate on target rows."""
        return self.target_learning_rate or self.learning_rate
