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
            depend on it. ``"auto"`` begins with 1, and takes twice as many each time that
            memory is too small for a step, which is repeated (under `Trainer`). Default 1.
        clipvalue: each element of the gradient is clipped to
            ``[-clipvalue, clipvalue]``.
        clipnorm: the gradient of each weight is scaled down to this L2 norm.
        global_clipnorm: all gradients together are scaled down to this L2
            norm (Pascanu, Mikolov, Bengio: On the difficulty of training
            recurrent neural networks, 2013, section 3.2).
        strict: whether what goes wrong silently with replicas or micro-batches
            (`kerastrain.lint`) is an error at the start of ``fit``. Default
            False, a warning.

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
        StepOptions(micro_batches=2, clipvalue=None, clipnorm=None, global_clipnorm=1.0, strict=False)
    """

    micro_batches: int | str = 1
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    strict: bool = False

    def __post_init__(self):
        number = 1 if self.micro_batches == "auto" else self.micro_batches
        if not isinstance(number, numbers.Integral) or number < 1:
            raise ArgumentError(
                '`micro_batches` must be a whole number, 1 or more, or "auto". '
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


POLICIES = ("raise", "skip", "rollback", "off")


@dataclasses.dataclass(frozen=True)
class Guard:
    """What to do about a step after which the loss, a weight or a slot of the optimizer is not finite.

    Attributes:
        policy: ``"raise"``, the default: `NonFiniteError`, with the weights from before the
            step. ``"skip"``: the step is left out, with a warning. ``"rollback"``: weights and
            optimizer (but for the learning rate) go back to a state that was kept before, and
            the training goes on with the batch after the bad one. ``"off"``: nothing is
            watched.
        most: more steps than that are not left out in an epoch, and never more than half of
            its steps: that is an error at its end. Default 10.
        every: for ``"rollback"``, a state is kept after so many steps, in the host's memory and
            in checkpoints. Default 100.

    Raises:
        ArgumentError: a policy that does not exist, or a number that is too small.

    Example:
        >>> Guard("skip", most=3)
        Guard(policy='skip', most=3, every=100)
    """

    policy: str = "raise"
    most: int = 10
    every: int = 100

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise ArgumentError(
                f"`guard` must be one of {', '.join(POLICIES)}, or a Guard. "
                f"Received: {self.policy!r}."
            )
        for name in ("most", "every"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
                raise ArgumentError(
                    f"`{name}` must be a whole number, 1 or more. Received: {name}={value!r}."
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
