"""A process in which Python lacks what it lacks on Windows. It is Linux all the same.

::

    pretend()                # once what is not tested is imported, such as TensorFlow and Keras
    import kerastrain

Modules and names of POSIX alone are gone. ``os.open`` refuses directories, ``os.fsync`` files that
cannot be written, and a stand-in for ``msvcrt`` locks as that of Windows does: each opened file by
itself, and none twice, not even for its owner.
"""

import errno
import os
import shutil
import signal
import sys
import types

MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN")
NAMES = """
    O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH
    O_SYNC chown chroot confstr ctermid fchdir fchown fdatasync fork forkpty fpathconf getegid
    geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid killpg
    lchown lockf mkfifo mknod nice openpty pathconf pipe2 posix_fadvise posix_fallocate posix_spawn
    pread preadv pwrite pwritev readv register_at_fork sched_getaffinity sched_yield sendfile setpgid
    setpriority setsid setuid statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid
    writev
""".split()


def pretend():
    """Makes this process such a one, and returns the calls of ``msvcrt.locking`` from now on."""
    import fcntl

    locked, calls = set(), []
    usual_open, usual_close, usual_fsync = os.open, os.close, os.fsync
    status_flags = fcntl.fcntl, fcntl.F_GETFL

    def locking(descriptor, mode, count):
        calls.append((mode, os.lseek(descriptor, 0, os.SEEK_CUR), count))
        if descriptor in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None
        locked.add(descriptor)

    def opened(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual_open(path, flags, *arguments, **options)

    def close(descriptor):
        locked.discard(descriptor)
        usual_close(descriptor)

    def fsync(descriptor):
        read, flag = status_flags
        if read(descriptor, flag) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        usual_fsync(descriptor)

    shutil._use_fd_functions = False
    os.open, os.close, os.fsync = opened, close, fsync
    for name in NAMES:
        vars(os).pop(name, None)
    for name in [name for name in vars(signal) if name.startswith("SIG") and name.isupper()]:
        if name not in SIGNALS:
            delattr(signal, name)
    sys.modules.update(dict.fromkeys(MODULES))  # an import of None fails
    sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2, LK_UNLCK=0)
    return calls


def train(directory, *then):
    """Trains in a run directory, and starts a command within each epoch, if one is given."""
    import subprocess

    import keras
    import numpy as np
    import platformdirs  # noqa: F401
    import tensorflow as tf  # noqa: F401

    calls = pretend()
    import kerastrain
    import kerastrain.cli.app
    import kerastrain.testing

    class During(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if then and epoch == 0:
                subprocess.run([sys.executable, *then], check=True, timeout=300)

        def get_state(self):
            return None

        def set_state(self, state):
            """Nothing is remembered."""

    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    for epochs in (2, 3):  # the second time it is resumed
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        trainer = kerastrain.Trainer(model, optimizer="adam", loss="mse", seed=0, execution="step")
        run = kerastrain.RunDir(directory, monitor="loss")
        options = {"verbose": 0, "callbacks": [During()], "shuffle": False}
        try:
            history = trainer.fit(x, y, 8, epochs=epochs, run_dir=run, **options)
        except kerastrain.RunError as error:
            print("refused:", error, flush=True)
            return
        print("trained", history.epoch, flush=True)
    print("locked", *sorted(set(calls)), flush=True)


if __name__ == "__main__":
    train(*sys.argv[1:])
