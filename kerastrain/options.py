"""Groups of related options: what a step does, and how it is compiled.

::

    Trainer(model, step=StepOptions(micro_batches=4), execution=Execution(eager=True))
"""

import dataclasses
import numbers
from typing import Any

from kerastrain.errors import ArgumentError

_CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What the step does beyond ``compile``'s own arguments.

    Attributes:
        micro_batches: into how many parts each replica's rows are cut for
            forward and backward passes, to save memory. The result does not
            depend on it. Default 1.
        clipvalue: each element of the gradient is clipped to
            ``[-clipvalue, clipvalue]``.
        clipnorm: the gradient of each weight is scaled down to this L2 norm.
        global_clipnorm: all gradients together are scaled down to this L2
            norm (Pascanu, Mikolov, Bengio: On the difficulty of training
            recurrent neural networks, 2013, section 3.2).
        strict: whether what goes wrong silently with replicas or micro-batches
            (`kerastrain.lint`) is an error at the start of ``fit``. Default
            False, a warning.

    Clipping acts on the gradient of the global batch, unlike the optimizer's
    own under Keras's ``fit`` with replicas. At most one of the three may be
    set, and none if the optimizer clips.

    Raises:
        ArgumentError: a value that is not positive, or two kinds of clipping.

    Example:
        >>> StepOptions(micro_batches=2, global_clipnorm=1.0)
        StepOptions(micro_batches=2, clipvalue=None, clipnorm=None, global_clipnorm=1.0, strict=False)
    """

    micro_batches: int = 1
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    strict: bool = False

    def __post_init__(self):
        if not isinstance(self.micro_batches, numbers.Integral) or self.micro_batches < 1:
            raise ArgumentError(
                "`micro_batches` must be a whole number, 1 or more. "
                f"Received: micro_batches={self.micro_batches!r}."
            )
        for name in _CLIPS:
            value = getattr(self, name)
            real = isinstance(value, numbers.Real)
            if value is not None and not (real and value > 0):
                raise ArgumentError(
                    f"`{name}` must be above 0, or None for no clipping. "
                    f"Received: {name}={value!r}."
                )
        if len(self.clips) > 1:
            raise ArgumentError(
                "Only one kind of clipping can be set. Received: "
                + ", ".join(f"{name}={getattr(self, name)}" for name in self.clips)
                + ". Keep one of them."
            )

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


PLANS = ("auto", "step", "loop", "xla_step", "xla_loop")


@dataclasses.dataclass(frozen=True)
class Execution:
    """How steps are compiled and run.

    Attributes:
        plan: the way to run steps. ``"auto"``, the default, measures them on steps that
            train, and takes the fastest (`kerastrain.choice`). ``"step"``: one compiled
            step for each batch. ``"loop"``: many steps in one call, a loop in the graph.
            ``"xla_loop"``: the same as one program of XLA. ``"xla_step"``: one step a call
            of it. A plan that cannot be compiled gives way to the next simpler one.
        steps_per_call: steps of one call at most. Default: as many as take a tenth of a
            second, so that callbacks, progress and Ctrl-C are served.
        deterministic: whether ``"auto"`` goes without measuring, so that the same plan
            runs each time: ``"loop"`` where it can. Default False.
        resident_bytes: arrays up to this size are kept as tensors, whole, while they are
            trained on. Default: a quarter of the memory that is free. Larger ones are
            gathered in the background, a few megabytes at a time; 0 for all.
        eager: run the step without compiling it, for debugging. Default
            False.
        jit_compile: only plans that compile with XLA. Default False. Not with
            several replicas.

    Raises:
        ArgumentError: a plan that does not exist, or a number that is too small.

    Example:
        >>> Execution(plan="loop", steps_per_call=8).plan
        'loop'
    """

    plan: str = "auto"
    steps_per_call: int | None = None
    deterministic: bool = False
    resident_bytes: int | None = None
    eager: bool = False
    jit_compile: bool = False

    @property
    def in_blocks(self) -> bool:
        """Whether batches are wanted that lie together (`kerastrain.blocks`)."""
        return not self.eager and self.plan != "step"

    def __post_init__(self):
        if self.plan not in PLANS:
            raise ArgumentError(
                f"`plan` must be one of {', '.join(PLANS)}. Received: plan={self.plan!r}."
            )
        for name, least in (("steps_per_call", 1), ("resident_bytes", 0)):
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise ArgumentError(
                    f"`{name}` must be a whole number, {least} or more. "
                    f"Received: {name}={value!r}."
                )
