"""What the benchmark runs: the items' binary, the programs and their inputs, and the initramfs that holds them.

Everything is made once and kept in BUILD/bench; what has changed since is made anew.
"""
import glob
import os
import shutil
import subprocess

BOOT_SCRIPT = "echo @first-program\n"
ITEMS_SCRIPT = "ifconfig lo up\n/bench/items agent\n"
CFLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-fno-tree-vectorize", "-Wall", "-Wextra"]


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
    dynamic = os.path.join(work, "dynamic")
    if not os.path.exists(dynamic):
        source = write(os.path.join(work, "dynamic.c"), "int main(void)\n{\n    return 0;\n}\n")
        subprocess.run(["gcc", "-O2", "-o", dynamic, source], check=True)
    return binary, dynamic


def make_image(tools, guest, image, sources, arguments):
    if not newer(image, sources + [os.path.join(tools, "make-initramfs"), os.path.join(tools, "guest-init")]):
        subprocess.run([os.path.join(tools, "make-initramfs"), guest, image, *arguments], check=True)
        return True
    return False


def unpack(image, root):
    """The tree of an initramfs, for the bare processor."""
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    subprocess.run(f"gzip -dc '{image}' | (cd '{root}' && cpio --quiet -idm)", shell=True, check=True)


def make(here, tools, work, guest):
    """Makes WORK/boot.img, WORK/items.img and WORK/root; the list of (group, item)."""
    binary, dynamic = build_items(here, work)
    boot = write(os.path.join(work, "boot-script"), BOOT_SCRIPT)
    items = write(os.path.join(work, "items-script"), ITEMS_SCRIPT)
    make_image(tools, guest, os.path.join(work, "boot.img"), [boot], ["--file", boot + ":/script"])
    image, root = os.path.join(work, "items.img"), os.path.join(work, "root")
    if make_image(tools, guest, image, [binary, dynamic, items],
                  ["--file", items + ":/script", "--file", binary + ":/bench/items", "--program", dynamic]):
        unpack(image, root)
    listing = subprocess.run([binary, "list"], check=True, capture_output=True, text=True).stdout
    return [tuple(line.split()) for line in listing.splitlines()]


def native_command(work):
    """The agent on the bare processor, seeing the same tree as in the guest. Wants root or user namespaces."""
    root = os.path.join(work, "root")
    mine = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = ('mount --rbind /dev "$0/dev" && mount --rbind /proc "$0/proc" && mount -t tmpfs tmp "$0/tmp" && '
              'exec chroot "$0" /bench/items agent')
    return ["unshare", "--mount", *mine, "sh", "-c", script, root]
