"""Every private Keras and TensorFlow name that kerastrain touches, one function each.

Written against Keras 3.15.1 and TensorFlow 2.21.0, and tested back to Keras 3.13 and
TensorFlow 2.19 (`kerastrain.versions`). Nothing else in the package
imports from ``keras.src`` or ``tensorflow.python``, or reads an attribute whose
name starts with an underscore from a Keras object, so a new Keras release is
checked by reading this folder.
"""

from kerastrain._keras.activity_losses import is_undivided
from kerastrain._keras.assets import load_assets
from kerastrain._keras.batch_hooks import listens_to_batches
from kerastrain._keras.batch_hooks import use_of_batches
from kerastrain._keras.bound_metrics import add_step_tracker
from kerastrain._keras.bound_metrics import are_to_be_bound
from kerastrain._keras.bound_metrics import bind_metrics
from kerastrain._keras.bound_metrics import compute_metrics
from kerastrain._keras.bound_metrics import metric_by_shape
from kerastrain._keras.bound_metrics import metrics_beside
from kerastrain._keras.bound_metrics import metrics_bound
from kerastrain._keras.bound_metrics import step_trackers
from kerastrain._keras.building import build_by_trace
from kerastrain._keras.building import BuildsFromShapes
from kerastrain._keras.building import random_batch
from kerastrain._keras.callbacks import history_of
from kerastrain._keras.callbacks import is_better
from kerastrain._keras.compiling import as_symbolic
from kerastrain._keras.compiling import base_compile
from kerastrain._keras.compiling import clear_compile_state
from kerastrain._keras.compiling import compile_arguments
from kerastrain._keras.compiling import compile_marks
from kerastrain._keras.compiling import compile_state
from kerastrain._keras.compiling import output_spec
from kerastrain._keras.compiling import set_compile_state
from kerastrain._keras.compiling import unbuilt_suppressed
from kerastrain._keras.data import are_arrays
from kerastrain._keras.data import data_adapter
from kerastrain._keras.data import dense_arrays
from kerastrain._keras.data import is_of_arrays
from kerastrain._keras.data import is_stream
from kerastrain._keras.data import is_torch_dataloader
from kerastrain._keras.data import is_without_batches
from kerastrain._keras.data import list_to_tuple
from kerastrain._keras.data import split_rows
from kerastrain._keras.data import yields_tensors
from kerastrain._keras.entry_points import base_method
from kerastrain._keras.entry_points import base_method_replaced
from kerastrain._keras.graphs import advanced_generators
from kerastrain._keras.graphs import depends_on
from kerastrain._keras.graphs import KeptState
from kerastrain._keras.losses import build_output_losses
from kerastrain._keras.losses import compiled_losses
from kerastrain._keras.losses import get_mask
from kerastrain._keras.losses import ignored_losses
from kerastrain._keras.losses import is_plain_loss
from kerastrain._keras.losses import loss_function_arguments
from kerastrain._keras.losses import losses_not_scaled
from kerastrain._keras.losses import noted_crossentropies
from kerastrain._keras.losses import output_loss_trackers
from kerastrain._keras.losses import output_losses
from kerastrain._keras.losses import output_trackers_suppressed
from kerastrain._keras.losses import OutputLoss
from kerastrain._keras.losses import same_rank
from kerastrain._keras.losses import set_mask
from kerastrain._keras.losses import unreduced_loss
from kerastrain._keras.metrics import add_growing_variable
from kerastrain._keras.metrics import all_metrics
from kerastrain._keras.metrics import flatten_results
from kerastrain._keras.metrics import has_plain_metrics
from kerastrain._keras.metrics import leaf_metrics
from kerastrain._keras.metrics import metric_function
from kerastrain._keras.metrics import metric_in_two_places
from kerastrain._keras.metrics import metric_names_by_output
from kerastrain._keras.metrics import metrics_or_logs
from kerastrain._keras.metrics import own_metrics
from kerastrain._keras.metrics import own_variables
from kerastrain._keras.metrics import python_logs
from kerastrain._keras.metrics import rows_measured
from kerastrain._keras.metrics import sparse_classes
from kerastrain._keras.metrics import take_no_rows
from kerastrain._keras.metrics import waiting_metrics
from kerastrain._keras.metrics import weighted_twins
from kerastrain._keras.models import added_losses
from kerastrain._keras.models import all_layers
from kerastrain._keras.models import all_operations
from kerastrain._keras.models import base_attributes
from kerastrain._keras.models import compute_loss
from kerastrain._keras.models import defines_losses
from kerastrain._keras.models import fixed_rows
from kerastrain._keras.models import forward
from kerastrain._keras.models import functional_class
from kerastrain._keras.models import functional_init
from kerastrain._keras.models import global_random_state
from kerastrain._keras.models import has_builtin_step
from kerastrain._keras.models import has_one_loss
from kerastrain._keras.models import has_updates
from kerastrain._keras.models import is_functional_call
from kerastrain._keras.models import is_of_keras
from kerastrain._keras.models import is_users_method
from kerastrain._keras.models import loss_tracker
from kerastrain._keras.models import losses_by_replica
from kerastrain._keras.models import optimizers_of
from kerastrain._keras.models import output_activation
from kerastrain._keras.models import overrides
from kerastrain._keras.models import prepare_saving
from kerastrain._keras.models import random_states
from kerastrain._keras.models import reduce_model
from kerastrain._keras.models import regularization_losses
from kerastrain._keras.models import set_step_options
from kerastrain._keras.models import set_trainable_flags
from kerastrain._keras.models import state_may_be_added
from kerastrain._keras.models import stateful_layers
from kerastrain._keras.models import step_options
from kerastrain._keras.models import take_initial_epoch
from kerastrain._keras.models import trainable_as
from kerastrain._keras.models import trainable_flags
from kerastrain._keras.models import without_results
from kerastrain._keras.operation_seeds import operation_seeds
from kerastrain._keras.operation_seeds import seeded_operations
from kerastrain._keras.operation_seeds import set_operation_seeds
from kerastrain._keras.operation_seeds import without_optimizations
from kerastrain._keras.optimizers import apply_for_all_replicas
from kerastrain._keras.optimizers import current_learning_rate
from kerastrain._keras.optimizers import expects_summed_gradients
from kerastrain._keras.optimizers import gradients_already_summed
from kerastrain._keras.optimizers import optimizers_in
from kerastrain._keras.optimizers import unknown_to_optimizer
from kerastrain._keras.optimizers import updates_in_replicas
from kerastrain._keras.optimizers import variable_keys
from kerastrain._keras.patching import patched
from kerastrain._keras.pipelines import begins_alike
from kerastrain._keras.pipelines import Left
from kerastrain._keras.pipelines import pipeline_traits
from kerastrain._keras.pipelines import PipelineTraits
from kerastrain._keras.replicated_layers import let_replicas_update
from kerastrain._keras.replicated_layers import random_seeds
from kerastrain._keras.replicated_layers import synchronized_moments
from kerastrain._keras.settings import constructor_arguments
from kerastrain._keras.settings import plain_attributes
from kerastrain._keras.settings import settings_of
from kerastrain._keras.strategies import without_collectives
from kerastrain._keras.variables import assign_local
from kerastrain._keras.variables import assigned_variables
from kerastrain._keras.variables import assignments_seen
from kerastrain._keras.variables import captured_handles
from kerastrain._keras.variables import captured_variables
from kerastrain._keras.variables import differs_by_replica
from kerastrain._keras.variables import handles_of
from kerastrain._keras.variables import held_by
from kerastrain._keras.variables import hold
from kerastrain._keras.variables import is_distributed
from kerastrain._keras.variables import is_made_under
from kerastrain._keras.variables import is_node
from kerastrain._keras.variables import local_variables
from kerastrain._keras.variables import model_strategy
from kerastrain._keras.variables import none_to_be_initialized
from kerastrain._keras.variables import read_all
from kerastrain._keras.variables import read_local
from kerastrain._keras.variables import replicas_of
from kerastrain._keras.variables import span_of
from kerastrain._keras.variables import tf_variable
from kerastrain._keras.variables import under_strategy
from kerastrain._keras.wiring import is_functional
from kerastrain._keras.wiring import wiring
from kerastrain._keras.workers import has_started
from kerastrain._keras.workers import lost_task
from kerastrain._keras.workers import make_all_types
from kerastrain._keras.workers import notice_lost_workers
from kerastrain._keras.workers import results_of_workers
from kerastrain._keras.workers import sum_over_workers
from kerastrain._keras.workers import worker_of
from kerastrain._keras.xla_kernels import has_xla_kernel
from kerastrain._keras.xla_kernels import supports_jit

__all__ = [
    "BuildsFromShapes",
    "KeptState",
    "Left",
    "OutputLoss",
    "PipelineTraits",
    "add_growing_variable",
    "add_step_tracker",
    "added_losses",
    "advanced_generators",
    "all_layers",
    "all_metrics",
    "all_operations",
    "apply_for_all_replicas",
    "are_arrays",
    "are_to_be_bound",
    "as_symbolic",
    "assign_local",
    "assigned_variables",
    "assignments_seen",
    "base_attributes",
    "base_compile",
    "base_method",
    "base_method_replaced",
    "begins_alike",
    "bind_metrics",
    "build_by_trace",
    "build_output_losses",
    "captured_handles",
    "captured_variables",
    "clear_compile_state",
    "compile_arguments",
    "compile_marks",
    "compile_state",
    "compiled_losses",
    "compute_loss",
    "compute_metrics",
    "constructor_arguments",
    "current_learning_rate",
    "data_adapter",
    "defines_losses",
    "dense_arrays",
    "depends_on",
    "differs_by_replica",
    "expects_summed_gradients",
    "fixed_rows",
    "flatten_results",
    "forward",
    "functional_class",
    "functional_init",
    "get_mask",
    "global_random_state",
    "gradients_already_summed",
    "handles_of",
    "has_builtin_step",
    "has_one_loss",
    "has_plain_metrics",
    "has_started",
    "has_updates",
    "has_xla_kernel",
    "held_by",
    "history_of",
    "hold",
    "ignored_losses",
    "is_better",
    "is_distributed",
    "is_functional",
    "is_functional_call",
    "is_made_under",
    "is_node",
    "is_of_arrays",
    "is_of_keras",
    "is_plain_loss",
    "is_stream",
    "is_torch_dataloader",
    "is_undivided",
    "is_users_method",
    "is_without_batches",
    "leaf_metrics",
    "let_replicas_update",
    "list_to_tuple",
    "listens_to_batches",
    "load_assets",
    "local_variables",
    "loss_function_arguments",
    "loss_tracker",
    "losses_by_replica",
    "losses_not_scaled",
    "lost_task",
    "make_all_types",
    "metric_by_shape",
    "metric_function",
    "metric_in_two_places",
    "metric_names_by_output",
    "metrics_beside",
    "metrics_bound",
    "metrics_or_logs",
    "model_strategy",
    "none_to_be_initialized",
    "noted_crossentropies",
    "notice_lost_workers",
    "operation_seeds",
    "optimizers_in",
    "optimizers_of",
    "output_activation",
    "output_loss_trackers",
    "output_losses",
    "output_spec",
    "output_trackers_suppressed",
    "overrides",
    "own_metrics",
    "own_variables",
    "patched",
    "pipeline_traits",
    "plain_attributes",
    "prepare_saving",
    "python_logs",
    "random_batch",
    "random_seeds",
    "random_states",
    "read_all",
    "read_local",
    "reduce_model",
    "regularization_losses",
    "replicas_of",
    "results_of_workers",
    "rows_measured",
    "same_rank",
    "seeded_operations",
    "set_compile_state",
    "set_mask",
    "set_operation_seeds",
    "set_step_options",
    "set_trainable_flags",
    "settings_of",
    "span_of",
    "sparse_classes",
    "split_rows",
    "state_may_be_added",
    "stateful_layers",
    "step_options",
    "step_trackers",
    "sum_over_workers",
    "supports_jit",
    "synchronized_moments",
    "take_initial_epoch",
    "take_no_rows",
    "tf_variable",
    "trainable_as",
    "trainable_flags",
    "unbuilt_suppressed",
    "under_strategy",
    "unknown_to_optimizer",
    "unreduced_loss",
    "updates_in_replicas",
    "use_of_batches",
    "variable_keys",
    "waiting_metrics",
    "weighted_twins",
    "wiring",
    "without_collectives",
    "without_optimizations",
    "without_results",
    "worker_of",
    "yields_tensors",
]
