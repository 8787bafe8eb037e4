"""Install edge_runtime from this file: without a network, without root, without pip.

    python3 FILE [--into DIR]          into DIR (default: edge-runtime in the home folder); again: upgrades
    python3 FILE --check               only say whether it would go here

Nothing is written before everything was checked: the processor, Python, the C library, every digest, the free space.
It is unpacked beside what is there, made sure of on the disk, tried (`doctor --self-test`), and only then takes its
place; whatever ends it before leaves the former installation as it was. The former one is kept until the next time.
"""
# This file is `__main__.py` of a kit. It runs on any Python 3.6 or newer, so that an old one gets a clear answer.

import argparse
import compileall
import contextlib
import hashlib
import importlib
import json
import os
import platform
import posixpath
import re
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
import zipfile

BLOCK_BYTES = 4096
SPARE_BYTES = 16 << 20  # byte code and what the self-test writes
PART_BYTES = 1 << 20
NAMES = {  # what platform.machine() says on kernels that run such programs
    "aarch64": ("aarch64", "arm64"),
    "armv7l": ("armv7l", "armv8l", "aarch64", "arm64"),  # a 64-bit kernel may have a 32-bit userland on it
    "x86_64": ("x86_64", "AMD64"),
}


class Refusal(Exception):
    """What was found and what was wanted; `hint` is what to do."""

    def __init__(self, message, hint=""):
        Exception.__init__(self, message + ("\n  try: " + hint if hint else ""))


def main():
    parser = argparse.ArgumentParser(
        prog="python3 " + sys.argv[0], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    home = os.path.join(os.path.expanduser("~"), "edge-runtime")
    parser.add_argument("--into", default=home, metavar="DIR", help="default: " + home)
    parser.add_argument("--check", action="store_true", help="write nothing: say whether it would go here")
    parser.add_argument("--no-self-test", action="store_true", help="read no slide: only see that an engine starts")
    options = parser.parse_args()
    try:
        with Kit(os.path.dirname(os.path.abspath(__file__))) as kit:
            into = os.path.abspath(options.into)
            kit.check(into)
            if options.check:
                print(f"{kit.title} goes here: it takes {mib(kit.needed_bytes())} in {into}")
                return 0
            install(kit, into, not options.no_self_test)
    except Refusal as refusal:
        print(f"edge-runtime kit: {refusal}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("edge-runtime kit: stopped; what was there before is as it was", file=sys.stderr)
        return 130
    return 0


def say(text):
    print(text, file=sys.stderr)
    sys.stderr.flush()


def mib(count):
    return "%.0f MiB" % (count / 1048576.0)


# ---------------------------------------------------------------- what is here


def facts():
    """Of this machine and this Python."""
    words = set()
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, rest = line.partition(":")
                if key.strip() in ("Features", "flags"):
                    words |= set(rest.split())
    except OSError:
        pass  # unknown: nothing is refused for it
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        library = ""
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "implementation": sys.implementation.name,
        "bits": struct.calcsize("P") * 8,
        "machine": platform.machine(),
        "abi": sysconfig.get_config_var("MULTIARCH") or "",
        "library": library,
        "features": words,
    }


def objections(wanted, here):
    """(found and wanted, what to do) for each reason why it does not go on `here`."""
    bits = "{}-bit Python on {}".format(here["bits"], here["machine"])
    if here["bits"] != wanted["bits"] or here["machine"] not in NAMES.get(wanted["arch"], (wanted["arch"],)):
        arch = "armv7l" if here["bits"] == 32 else here["machine"].replace("arm64", "aarch64")
        yield (
            f"processor: found a {bits}, wanted a {wanted['bits']}-bit Python on {wanted['arch']}",
            f"make a kit for this one: scripts/kit --arch {arch} -o FILE",
        )
        return
    if wanted["arch"] == "armv7l" and here["abi"] and not here["abi"].endswith("eabihf"):
        yield "userland: found {}, wanted arm-linux-gnueabihf (hard float)".format(here["abi"]), ""
    if (here["implementation"], here["python"]) != ("cpython", wanted["python"]):
        found = f"{here['implementation']} {here['python']}"
        yield (
            f"Python: found {found}, wanted cpython {wanted['python']}",
            f"python{wanted['python']} FILE, where there is one; or a kit for this Python: "
            f"scripts/kit --python {here['python']} -o FILE",
        )
    kind, _, version = here["library"].partition(" ")
    if kind != "glibc":
        found = here["library"] or "none that says its version (musl, or Android's own)"
        yield (
            f"C library: found {found}, wanted glibc {wanted['glibc']} or newer: the engines are built for it",
            "on Android: Termux, and in it `proot-distro install debian`; on Alpine: a container with Debian",
        )
    elif numbers(version) < numbers(wanted["glibc"]):
        yield (
            "C library: found glibc {}, wanted {} or newer".format(version, wanted["glibc"]),
            "a newer system: Debian 12 and Raspberry Pi OS of 2023 have 2.36",
        )
    features = set(here["features"])
    if "asimd" in features:  # a 64-bit kernel says the 64-bit words to 32-bit programs too
        features |= {"neon", "vfpv4"}
    missing = sorted(set(wanted["features"]) - features) if features else ()
    if missing:
        yield "processor: it lacks {}, which the engines use".format(", ".join(missing)), ""


def numbers(version):
    return [int(part) for part in version.split(".")[:2]]


def lacking(modules):
    """The system's own packages that are not there, or not in the versions that go together."""
    for one in modules:
        try:
            found = str(importlib.import_module(one["module"]).__version__)
        except ImportError:
            yield "found no {}, wanted {} or newer of the system's".format(one["module"], one["least"]), one["package"]
            continue
        if numbers(found) < numbers(one["least"]) or ("below" in one and numbers(found) >= numbers(one["below"])):
            below = " and older than {}".format(one["below"]) if "below" in one else ""
            yield "found {} {}, wanted {} or newer{}".format(one["module"], found, one["least"], below), one["package"]


# ---------------------------------------------------------------- the kit


class Kit:
    """What is in this file. `path` is the file itself, or a folder with the same (for tests)."""

    def __init__(self, path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
            self.about = json.loads(self.archive.read("kit.json").decode())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise Refusal(f"{path}: cannot be read as a kit: {error}", "copy the file to this device again") from error
        self.title = "edge-runtime {} ({})".format(self.about["version"], self.about["id"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.archive.close()

    def check(self, into):
        """Raises Refusal with everything that stands in the way."""
        found = list(objections(self.about["target"], facts()))
        if not found:
            missing = list(lacking(self.about["system"]))
            if missing:
                packages = " ".join(package for _, package in missing)
                found.append(("; ".join(said for said, _ in missing), "sudo apt-get install " + packages))
        if found:
            raise Refusal("\n".join(said + ("\n  try: " + hint if hint else "") for said, hint in found))
        self.check_digests()
        check_folder(into)
        folder, needed = existing(into), self.needed_bytes()
        if os.path.isdir(os.path.join(into, "versions", self.about["id"])):
            return
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            raise Refusal(
                f"{folder}: found {mib(free)} free, wanted {mib(needed)}; nothing was written",
                "python3 FILE --into a folder on a larger disk, or make room",
            )
        files = self.about["files"]
        if disk.f_files and disk.f_favail < files:
            raise Refusal(f"{folder}: found room for {disk.f_favail} files, wanted {files}")

    def needed_bytes(self):
        return self.about["installed_bytes"] * 21 // 20 + SPARE_BYTES

    def check_digests(self):
        for one in self.about["parts"]:
            whole = hashlib.sha256()
            try:
                with self.archive.open(one["name"]) as file:
                    for part in iter(lambda: file.read(PART_BYTES), b""):
                        whole.update(part)
            except (KeyError, OSError, zipfile.BadZipFile) as error:
                raise Refusal(
                    "{}: {} is damaged: {}".format(self.path, one["name"], error), "copy the file here again"
                ) from error
            if whole.hexdigest() != one["sha256"]:
                raise Refusal(
                    "{}: {} is damaged: another digest".format(self.path, one["name"]), "copy the file here again"
                )

    def unpack(self, folder):
        for one in self.about["parts"]:
            with self.archive.open(one["name"]) as file:
                if one["name"].endswith(".whl"):
                    with zipfile.ZipFile(file) as wheel:
                        unpack_wheel(wheel, os.path.join(folder, "site"))
                else:
                    write(file, os.path.join(folder, one["name"]))
        with self.archive.open("kit.json") as file:
            write(file, os.path.join(folder, "kit.json"))


def unpack_wheel(wheel, site):
    """As pip does: data folders for the library go to the library; scripts and headers are left out."""
    for name in wheel.namelist():
        if name.endswith("/"):
            continue
        parts = name.split("/")
        if parts[0].endswith(".data"):
            if parts[1] not in ("purelib", "platlib"):
                continue
            parts = parts[2:]
        inside = posixpath.join(*parts)
        if posixpath.isabs(inside) or ".." in parts or "\\" in inside:
            raise Refusal(f"a wheel has the file {name!r}, which would lie outside the folder")
        with wheel.open(name) as file:
            write(file, os.path.join(site, *parts))


def write(file, path):
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        os.makedirs(folder)
    with open(path, "wb") as out:
        shutil.copyfileobj(file, out, PART_BYTES)


# ---------------------------------------------------------------- installing


def existing(path):
    """The folder, or the nearest above it that there is."""
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def check_folder(into):
    """Raises Refusal for a folder that is something else's, or that cannot be written."""
    folder = existing(into)
    if os.path.lexists(into) and not os.path.isdir(into):
        raise Refusal(f"{into}: found a file there, wanted a folder or nothing", "python3 FILE --into DIR")
    if os.path.isdir(into):
        names = set(os.listdir(into))
        # beside what a kit has made a clinic keeps its journal, its slides: that is no reason not to upgrade
        if names - {"lock"} and not os.path.isdir(os.path.join(into, "versions")):
            raise Refusal(
                f"{into}: found {min(names)} in it, wanted an empty folder or one that a kit made",
                "python3 FILE --into {}".format(os.path.join(into, "edge-runtime-kit")),
            )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refusal(f"{folder}: may not be written by this user", "python3 FILE --into a folder of your own")


def install(kit, into, self_test):
    versions = os.path.join(into, "versions")
    target = os.path.join(versions, kit.about["id"])
    trial = target + ".new"
    try:
        os.makedirs(versions, exist_ok=True)
        with locked(into):
            clear(versions)
            before = current(into)
            if not works(target, self_test):
                say(f"unpacking {kit.title} into {into} ...")
                kit.unpack(trial)
                package = os.path.join(trial, "site", "edge_runtime")
                compileall.compile_dir(package, quiet=1, rx=re.compile("/compress"))  # that is for workstations
                flush_all()
                try_it(trial, self_test)
                write_start(os.path.join(trial, "edge-runtime"), target)
                flush_all()  # with the byte code that the self-test left
                if os.path.isdir(target):  # damaged
                    os.rename(target, target + ".old.new")
                os.rename(trial, target)
                flush(versions)
                clear(versions)
            write_start(os.path.join(into, "edge-runtime"), target)
            flush(into)
            for name in os.listdir(versions) if before != kit.about["id"] else ():
                if name not in (kit.about["id"], before):
                    shutil.rmtree(os.path.join(versions, name), ignore_errors=True)
    except OSError as error:
        shutil.rmtree(trial, ignore_errors=True)
        raise Refusal(f"{error}; what was there before is as it was") from error
    except BaseException:
        shutil.rmtree(trial, ignore_errors=True)
        raise
    start = shlex.quote(os.path.join(into, "edge-runtime"))
    bundle = kit.about["bundle"]
    bundle = shlex.quote(os.path.join(target, bundle)) if bundle.endswith(".edge") else bundle
    device = " --device {}".format(kit.about["device"]) if kit.about["device"] else ""
    print("{} is installed{}. Start it:".format(kit.title, f", {before} before" if before else ""))
    print(f"  {start} doctor{device}")
    print(f"  {start} loop {bundle} incoming/ --journal clinic.db{device}")


@contextlib.contextmanager
def locked(into):
    import fcntl

    with open(os.path.join(into, "lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refusal(
                f"{into}: another kit is being installed there", "the same command, when that has ended"
            ) from None
        yield


def works(folder, self_test):
    """Whether it is there and does what it should: files may have been damaged since."""
    if not os.path.isdir(folder):
        return False
    try:
        try_it(folder, self_test)
    except Refusal as refusal:
        say(f"what is installed does not work any more, so it is unpacked again: {refusal}")
        return False
    return True


def clear(versions):
    """What an installation that was cut off left."""
    for name in os.listdir(versions):
        if name.endswith(".new"):
            shutil.rmtree(os.path.join(versions, name))


def current(into):
    """The version that is started now, or None."""
    try:
        with open(os.path.join(into, "edge-runtime")) as file:
            for line in file:
                if line.startswith("# version "):
                    return line.split()[2]
    except OSError:
        pass
    return None


def try_it(folder, self_test):
    """Tries it where it lies. It also leaves the byte code of what it used, so that nothing is compiled later on.

    Raises Refusal with its last words.
    """
    words = ["doctor", "--self-test"] if self_test else ["doctor"]
    say("trying it: {}{} ...".format(" ".join(words), ", some minutes on a small device" if self_test else ""))
    variables = dict(os.environ, PYTHONPATH=os.path.join(folder, "site"), PYTHONSAFEPATH="1", PYTHONNOUSERSITE="1")
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONHOME"):
        variables.pop(name, None)
    line = [sys.executable, "-m", "edge_runtime", *words]
    process = subprocess.Popen(
        line, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
    )
    said = process.communicate()[0].decode("utf-8", "replace")
    if process.returncode:
        text = said[-4000:].rstrip()
        raise Refusal("it does not work here; what was there before is as it was. It said:\n" + text)
    for text in said.splitlines():
        if text.startswith("self-test"):
            say(text)


def write_start(path, version):
    """The program that people start: whole, or as it was before."""
    python, site = sys.executable, os.path.join(version, "site")
    text = "\n".join(
        [
            "#!/bin/sh",
            f"# version {os.path.basename(version)}",
            f"python={shlex.quote(python)} site={shlex.quote(site)}",
            'if ! [ -x "$python" ]; then',
            '    echo "edge-runtime: $python is gone; install it, or make a kit for the Python that is here" >&2',
            "    exit 1",
            "fi",
            # the byte code is there; one that a power cut left half would be in the way for ever
            "export PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1",
            'PYTHONPATH=$site exec "$python" -m edge_runtime "$@"',
            "",
        ]
    )
    with open(path + ".new", "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path + ".new", 0o755)
    os.rename(path + ".new", path)


def flush_all():
    os.sync()


def flush(folder):
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
