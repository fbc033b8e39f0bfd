"""What the benchmark runs: the items' binary, the programs and their inputs, and the initramfs that holds them.

Everything is made once and kept in BUILD/bench; what has changed since is made anew.
"""
import glob
import os
import random
import shutil
import subprocess
import sys

BOOT_SCRIPT = "echo @first-program\n"
ITEMS_SCRIPT = "ifconfig lo up\n/bench/items agent\n"
CFLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-fno-tree-vectorize", "-Wall", "-Wextra"]

# Programs that the items run, and where they come from unless from PATH.
PROGRAMS = ["openssl", "gzip", "xz", "zstd", "sort", "mawk", "bc", "sqlite3", "dash", "cat", "cksum", "head", "tail", "sed",
            "grep", "expr", "cp", "mv", "rm", "mkdir", "tr", "dirname", "basename", "/usr/bin/perl", "/usr/bin/python3"]
PYTHON_LEFT_OUT = ["test", "config-*", "dist-packages", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "unittest",
                   "distutils", "tkinter", "*.opt-*.pyc"]


def newer(target, sources):
    """Whether the target is there and no older than any source."""
    return os.path.exists(target) and all(os.path.getmtime(s) <= os.path.getmtime(target) for s in sources)


def write(path, text):
    if os.path.exists(path):
        with open(path) as f:
            if f.read() == text:
                return path
    with open(path, "w") as f:
        f.write(text)
    return path


def build_items(here, work):
    sources = sorted(glob.glob(os.path.join(here, "guest", "*.c")))
    headers = glob.glob(os.path.join(here, "guest", "*.h"))
    binary = os.path.join(work, "items")
    if not newer(binary, sources + headers):
        subprocess.run(["gcc", *CFLAGS, "-static", "-o", binary, *sources, "-lm", "-pthread"], check=True)
    binaries = [binary]
    narrow = os.path.join(work, "items32")
    sources = [os.path.join(here, "guest", name + ".c") for name in ("main", "integer", "branches", "float", "programs")]
    if newer(narrow, sources + headers) or make_narrow(narrow, sources):
        binaries.append(narrow)
    dynamic = os.path.join(work, "dynamic")
    if not os.path.exists(dynamic):
        source = write(os.path.join(work, "dynamic.c"), "int main(void)\n{\n    return 0;\n}\n")
        subprocess.run(["gcc", "-O2", "-o", dynamic, source], check=True)
    return binaries, dynamic


def make_narrow(target, sources):
    """The same items as 32-bit code; left out where there is no 32-bit C library."""
    made = subprocess.run(["gcc", *CFLAGS, "-m32", "-msse2", "-static", "-o", target, *sources, "-lm", "-pthread"],
                          capture_output=True)
    if made.returncode:
        print("bench: no 32-bit items, since 'gcc -m32' does not work: see 'tools/install-deps bench'", file=sys.stderr)
    return made.returncode == 0


def make_boot_image(tools, guest, image, script):
    if not newer(image, [script, os.path.join(tools, "make-initramfs"), os.path.join(tools, "guest-init")]):
        subprocess.run([os.path.join(tools, "make-initramfs"), guest, image, "--file", script + ":/script"], check=True)


def unpack(image, root):
    """The tree of an initramfs, for the bare processor."""
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    with open(image, "rb") as f:
        subprocess.run(["cpio", "--quiet", "-idm"], stdin=f, cwd=root, check=True)


def make_text(path):
    """8 MiB of lines of words, the common ones more often, and some numbers: compressible as prose is."""
    r = random.Random(1)
    words = ["".join(chr(97 + int(r.random() ** 2 * 26)) for _ in range(2 + int(r.random() * 8))) for _ in range(5000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    with open(path, "w") as f:
        while f.tell() < 8 << 20:
            line = r.choices(words, weights, k=10)
            line.append(str(int(r.random() * 10000)))
            f.write(" ".join(line) + "\n")


def make_lines(path):
    r = random.Random(2)
    with open(path, "w") as f:
        for n in range(200000):
            f.write(f"{int(r.random() * 1e9):x},{'abcdefgh'[int(r.random() * 8)] * 3},{int(r.random() * 1e5)},{n}\n")


def make_data(here, stage):
    data = os.path.join(stage, "bench", "data")
    os.makedirs(data)
    make_text(os.path.join(data, "text"))
    make_lines(os.path.join(data, "lines"))
    for name in ("work.py", "work.pl"):
        shutil.copy(os.path.join(here, "guest", name), data)
    subprocess.run(["gcc", "-E", "-D_GNU_SOURCE", os.path.join(here, "guest", "branches.c"),
                    "-o", os.path.join(data, "branches.i")], check=True)


def make_stage(here, work):
    """A tree of what the programs need beside themselves and their libraries."""
    stage = os.path.join(work, "stage")
    shutil.rmtree(stage, ignore_errors=True)
    make_data(here, stage)
    python = subprocess.run(["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
                            check=True, capture_output=True, text=True).stdout.strip()
    for source, left_out in ((python, PYTHON_LEFT_OUT), ("/usr/lib/x86_64-linux-gnu/perl-base", [])):
        shutil.copytree(source, stage + source, ignore=shutil.ignore_patterns(*left_out))
    return stage


def make_items_image(here, tools, work, guest, script):
    """items.img (not compressed: that would time the guest's gunzip at each boot), and its tree."""
    binaries, dynamic = build_items(here, work)
    image, root = os.path.join(work, "items.img"), os.path.join(work, "root")
    sources = [*binaries, dynamic, script, __file__] + glob.glob(os.path.join(here, "guest", "work.*"))
    if newer(image, sources) and os.path.isdir(root):
        return
    print("bench: making the initramfs", file=sys.stderr)
    cc1 = subprocess.run(["gcc", "-print-prog-name=cc1"], check=True, capture_output=True, text=True).stdout.strip()
    arguments = ["--file", script + ":/script", "--file", "/bin/dash:/bin/sh",
                 "--tree", make_stage(here, work) + ":/"]
    for binary in binaries:
        arguments += ["--file", f"{binary}:/bench/{os.path.basename(binary)}"]
    for program in [dynamic, cc1] + PROGRAMS:
        arguments += ["--program", program]
    packed = os.path.join(work, "items.gz")
    subprocess.run([os.path.join(tools, "make-initramfs"), guest, packed, *arguments], check=True)
    with open(image + ".tmp", "wb") as f:
        subprocess.run(["gzip", "-dc", packed], stdout=f, check=True)
    os.remove(packed)
    unpack(image + ".tmp", root)
    os.replace(image + ".tmp", image)


def make(here, tools, work, guest):
    """Makes WORK/boot.img, WORK/items.img and WORK/root; the list of (group, item)."""
    boot = write(os.path.join(work, "boot-script"), BOOT_SCRIPT)
    items = write(os.path.join(work, "items-script"), ITEMS_SCRIPT)
    make_boot_image(tools, guest, os.path.join(work, "boot.img"), boot)
    make_items_image(here, tools, work, guest, items)
    listing = ""
    for binary in filter(os.path.exists, (os.path.join(work, name) for name in ("items", "items32"))):
        listing += subprocess.run([binary, "list"], check=True, capture_output=True, text=True).stdout
    return [tuple(line.split()) for line in listing.splitlines()]


def native_command(work):
    """The agent on the bare processor, seeing the same tree as in the guest. Wants root or user namespaces."""
    root = os.path.join(work, "root")
    mine = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = ('mount --rbind /dev "$0/dev" && mount --rbind /proc "$0/proc" && mount -t tmpfs tmp "$0/tmp" && '
              'exec chroot "$0" /bench/items agent')
    return ["unshare", "--mount", *mine, "sh", "-c", script, root]
