"""Groups of related options, checked when they are made.

::

    Trainer(model, execution=Execution("loop", deterministic=True), guard=Guard("skip", max_skipped=3))
    trainer.fit(x, y, epochs=9, run_dir=RunDir("runs/a", save_every=100, monitor="val_loss"))
"""

import dataclasses
import datetime
import os
import re
from collections.abc import Callable
from typing import Any
from typing import Literal

from kerastrain import validation
from kerastrain.errors import ArgumentError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.renaming import renamed_fields

MicroBatches = int | Literal["auto"]
Lint = Literal["warn", "error", "off"]
Policy = Literal["raise", "skip", "rollback", "off"]
Plan = Literal["auto", "step", "loop", "xla_step", "xla_loop"]

LINTS = ("warn", "error", "off")
POLICIES = ("raise", "skip", "rollback", "off")
PLANS = ("auto", "step", "loop", "xla_step", "xla_loop")
_CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")


def lint_of_strict(strict: bool) -> Lint:
    """``lint`` for what was passed as ``strict``, its name before version 0.8."""
    return "error" if strict else "warn"


@renamed_fields({"strict": lint_of_strict}, strict="lint")
@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What the step does beyond ``compile``'s own arguments.

    `Trainer` and `TrainableModel.compile` take these one by one.

    Attributes:
        micro_batches: into how many parts each replica's rows are cut for
            forward and backward passes, to save memory. The result does not
            depend on it. ``"auto"`` begins with 1, and takes twice as many each time that
            memory is too small for a step, which is repeated (under `Trainer`). Default 1.
        clipvalue: each element of the gradient is clipped to
            ``[-clipvalue, clipvalue]``.
        clipnorm: the gradient of each weight is scaled down to this L2 norm.
        global_clipnorm: all gradients together are scaled down to this L2
            norm (Pascanu, Mikolov, Bengio: On the difficulty of training
            recurrent neural networks, 2013, section 3.2).
        lint: what is done about what goes wrong silently, most of it with replicas or
            micro-batches (`kerastrain.preparation.lint`), when ``fit`` begins: ``"warn"``, the
            default; ``"error"``: it is a `ModelError` or `MetricError`; ``"off"``: it is not
            looked for.
        log_norms: whether each epoch logs ``gradient_norm``, the L2 norm of all gradients of the global
            batch together, before they are clipped and without a loss scale, and ``weight_norm``, that
            of all trainable weights after the update: means over the steps, without those where it is
            not finite. Each update has its own (`kerastrain.TrainableModel.updates`). Default False.

    With ``mixed_float16`` and a ``LossScaleOptimizer``, parts of a batch (micro-batches and
    replicas) may come to another loss scale than the whole batch, so that one run skips a
    step that the other takes. A gradient in half precision overflows at 65504: the sum over
    the rows of a part may do so where that over all rows does not, because their gradients
    cancel, and the sum over all rows where those of the parts do not, because these are added
    up in float32. With ``mixed_bfloat16``, whose range is that of float32, neither happens.

    Clipping acts on the gradient of the global batch, unlike the optimizer's
    own under Keras's ``fit`` with replicas. At most one of the three may be
    set, and none if the optimizer clips.

    Raises:
        ArgumentError: a value that is not positive, or two kinds of clipping.

    Example:
        >>> StepOptions(micro_batches=2, global_clipnorm=1.0)
        StepOptions(micro_batches=2, clipvalue=None, clipnorm=None, global_clipnorm=1.0, lint='warn',
            log_norms=False)
    """

    micro_batches: MicroBatches = 1
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    lint: Lint = "warn"
    log_norms: bool = False

    def __post_init__(self) -> None:
        if self.micro_batches != "auto":
            validation.whole_number("micro_batches", self.micro_batches, 1, '"auto"')
        for name in self.clips:
            validation.positive_number(name, getattr(self, name), "None for no clipping")
        validation.one_of("lint", self.lint, LINTS)
        if not isinstance(self.log_norms, bool):
            raise ArgumentError(f"`log_norms` must be True or False. Received: {self.log_norms!r}.")
        if len(self.clips) > 1:
            raise ArgumentError(
                "Only one kind of clipping can be set. Received: "
                + ", ".join(f"{name}={getattr(self, name)}" for name in self.clips)
                + ". Keep one of them."
            )

    @property
    def parts(self) -> int:
        """Micro-batches to begin with."""
        return 1 if self.micro_batches == "auto" else self.micro_batches

    @property
    def clips(self) -> list[str]:
        """The names of the clipping options that are set."""
        return [name for name in _CLIPS if getattr(self, name) is not None]

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def check_clips_once(options: StepOptions, optimizer: Any) -> None:
    """Refuses clipping that is set both in the options and on the optimizer.

    Raises:
        ArgumentError: both clip.
    """
    if not options.clips or optimizer is None:
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    theirs = [name for name in _CLIPS if getattr(inner, name, None)]
    if theirs:
        raise ArgumentError(
            f"Clipping is set twice: {options.clips[0]} of the step and "
            f"{theirs[0]}={getattr(inner, theirs[0])} of the optimizer. Remove one."
        )


@renamed_fields(most="max_skipped", every="snapshot_every")
@dataclasses.dataclass(frozen=True)
class Guard:
    """What to do about a step after which the loss, a weight or a slot of the optimizer is not finite.

    Attributes:
        policy: ``"raise"``, the default: `NonFiniteError`, with the weights from before the
            step. ``"skip"``: the batch is skipped, with a warning. ``"rollback"``: weights and
            optimizer (but for the learning rate) are rolled back to a snapshot, and the training
            continues with the batch after the bad one. ``"off"``: nothing is checked.
        max_skipped: the batches that may be skipped in an epoch; one more is an error. Never
            more than half of the epoch's: that is an error at its end. Default 10.
        snapshot_every: for ``"rollback"``, the steps between two snapshots, which are kept in the
            host's memory and in checkpoints. Default 100.

    Raises:
        ArgumentError: a policy that does not exist, or a number that is too small.

    Example:
        >>> Guard("skip", max_skipped=3)
        Guard(policy='skip', max_skipped=3, snapshot_every=100)
    """

    policy: Policy = "raise"
    max_skipped: int = 10
    snapshot_every: int = 100

    def __post_init__(self) -> None:
        validation.one_of("guard", self.policy, POLICIES, "a Guard")
        for name in ("max_skipped", "snapshot_every"):
            validation.whole_number(name, getattr(self, name), 1)


@renamed_fields(eager="run_eagerly", steps_per_call="steps_per_execution")
@dataclasses.dataclass(frozen=True)
class Execution:
    """How steps are compiled and run.

    `Trainer` takes ``run_eagerly``, ``jit_compile`` and ``steps_per_execution`` by themselves too,
    by the names that they have in ``keras.Model.compile``.

    Attributes:
        plan: the way to run steps. ``"auto"``, the default, measures them on steps that
            train, and takes the fastest (`kerastrain.execution.plan_choice`). ``"step"``: one compiled
            step for each batch. ``"loop"``: many steps in one call, a loop in the graph.
            ``"xla_loop"``: the same as one program of XLA. ``"xla_step"``: one step a call
            of it. A plan that cannot be compiled gives way to the next simpler one.
        steps_per_execution: steps of one call at most. Default: as many as take a tenth of a
            second, so that callbacks, progress and Ctrl-C are served.
        deterministic: whether ``"auto"`` goes without measuring, so that the same plan
            runs each time: ``"loop"`` where it can. Default False.
        resident_bytes: arrays up to this size are kept as tensors, whole, while they are
            trained on. Default: a quarter of the memory that is free. Larger ones are
            gathered in the background, a few megabytes at a time; 0 for all.
        run_eagerly: run the step without compiling it, for debugging. Default False. Not with
            a plan of loops or of XLA, nor with ``jit_compile=True``.
        jit_compile: True: only plans that compile with XLA; not on several replicas, nor with
            the plans ``"step"`` and ``"loop"``. False: none of these. None, the default: the
            plan decides.
        stall_seconds: where several workers train, the seconds after which one that hears nothing
            of the others ends; None for never. Default 600.
        cache: whether what ``"auto"`` has measured is kept in the user's cache directory, so that the
            next process begins with the plan that was the fastest for the same model, data and machine
            (`kerastrain.execution.plan_records`). Default True.

    Raises:
        ArgumentError: a plan that does not exist, a number that is too small, or values that
            exclude each other.

    Example:
        >>> Execution(plan="loop", steps_per_execution=8).plan
        'loop'
    """

    plan: Plan = "auto"
    steps_per_execution: int | None = None
    deterministic: bool = False
    resident_bytes: int | None = None
    run_eagerly: bool = False
    jit_compile: bool | None = None
    stall_seconds: float | None = 600.0
    cache: bool = True

    @property
    def in_blocks(self) -> bool:
        """Whether batches are wanted that lie together (`kerastrain.data.blocks`)."""
        return not self.run_eagerly and self.plan != "step"

    def __post_init__(self) -> None:
        validation.one_of("plan", self.plan, PLANS)
        for name, least in (("steps_per_execution", 1), ("resident_bytes", 0)):
            if getattr(self, name) is not None:
                validation.whole_number(name, getattr(self, name), least, "None")
        if self.stall_seconds is not None:
            validation.positive_number("stall_seconds", self.stall_seconds, "None for never")
        by_xla, pinned = self.plan.startswith("xla"), self.plan != "auto"
        excluded = None
        if self.run_eagerly and self.jit_compile:
            excluded = "run_eagerly=True and jit_compile=True"
        elif self.run_eagerly and self.plan not in ("auto", "step"):
            excluded = f"run_eagerly=True and the plan {self.plan!r}"
        elif self.jit_compile and pinned and not by_xla:
            excluded = f"jit_compile=True and the plan {self.plan!r}, which XLA does not compile,"
        elif self.jit_compile is False and by_xla:
            excluded = f"jit_compile=False and the plan {self.plan!r}, which XLA compiles,"
        if excluded:
            raise ArgumentError(f"{excluded} exclude each other. Remove one of them.")


def step_options_given(
    whole: StepOptions | None, **given: Any
) -> Callable[[StepOptions], StepOptions]:
    """What the options of a compiled model become by the arguments of `Trainer`.

    Args:
        whole: takes their place, if any.
        **given: options by name; None for those that stay. One way to clip takes the place of
            another.

    Raises:
        ArgumentError: a value that cannot work, or two ways to clip.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if any(name in _CLIPS for name in given):
        given = dict.fromkeys(_CLIPS) | given

    def replaced(compiled: StepOptions) -> StepOptions:
        return dataclasses.replace(whole or compiled, **given)

    replaced(StepOptions())  # finds what cannot work
    return replaced


def execution_given(
    execution: Execution | Plan | None, **given: Any
) -> Callable[[Execution], Execution]:
    """The same for an execution.

    Args:
        execution: an `Execution`, which takes the place of the compiled model's, a plan's name,
            or None.
        **given: options of it by name; None for those that are not given.

    Raises:
        ArgumentError, UnsupportedTypeError: a value that cannot work, or two for one option.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(execution, str):
        validation.one_of("execution", execution, PLANS, "an Execution")
        execution = Execution(plan=execution)
    if execution is not None and not isinstance(execution, Execution):
        raise UnsupportedTypeError(
            "`execution` must be Execution(...), the name of a plan, or None. Received: "
            f"execution={execution!r} of type {type(execution).__name__}."
        )
    for name, value in given.items():
        there = getattr(execution, name, None)
        if there not in (None, False, value):
            raise ArgumentError(
                f"`{name}` is given twice: {name}={value!r}, and {there!r} in the Execution. "
                "Remove one of them."
            )
    whole = execution

    def replaced(compiled: Execution) -> Execution:
        # What is given excludes the other one of the compiled model's.
        off: dict[str, Any] = {"jit_compile": None} if given.get("run_eagerly") else {}
        off |= {"run_eagerly": False} if given.get("jit_compile") else {}
        return dataclasses.replace(whole or compiled, **(off if whole is None else {}) | given)

    replaced(Execution())  # finds what cannot work
    return replaced


@renamed_fields()
@dataclasses.dataclass(frozen=True)
class RunDir:
    """A run directory, in which `Trainer.fit` saves a training, and from which it resumes.

    Attributes:
        path: of the directory, which is made where it is missing. One process may use it at a
            time.
        resume: whether the run that is there is resumed, if any; else a run that is there is
            an error. Default True.
        save_every: the steps between two checkpoints, or a ``datetime.timedelta``. Default a
            minute. The ends of epochs are saved too where that takes less than a fiftieth of the
            time, and the end of the training.
        keep: how many of the last checkpoints are kept. Default 2.
        monitor: the result, such as ``"val_loss"`` or ``"max val_score"``, whose best checkpoint
            is kept too, with the model as ``best.keras``. Default None, for none.

    Raises:
        ArgumentError: a value that cannot work.

    Example:
        >>> RunDir("runs/a", save_every=100).keep
        2
    """

    path: str | os.PathLike[str]
    resume: bool = True
    save_every: int | datetime.timedelta | None = None
    keep: int = 2
    monitor: str | None = None

    def __post_init__(self) -> None:
        is_path = isinstance(self.path, str | os.PathLike) and str(self.path)
        if not is_path or re.match("[a-z0-9]+:/", str(self.path)):  # `Path` makes one slash of two
            raise ArgumentError(
                "`run_dir` must be the path of a directory of this machine's file system, such as "
                f'"runs/a", or a RunDir of one. Received: run_dir={self.path!r}.'
            )
        validation.whole_number("keep", self.keep, 1)
        every = self.save_every
        if isinstance(every, datetime.timedelta) and every.total_seconds() > 0 or every is None:
            return
        validation.whole_number("save_every", every, 1, "a datetime.timedelta above 0")
