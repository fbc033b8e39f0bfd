"""One guest on both sides, Trapeze and QEMU's TCG: the commands, and the rounds that alternate between them."""
import os
import re
import statistics
import subprocess

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")


def add_arguments(parser):
    parser.add_argument("build")
    parser.add_argument("guest")
    parser.add_argument("--engine", default="translate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="how long each measurement takes")
    parser.add_argument("--cpus", type=int, default=1)


def commands(args, initrd, ours, qemu):
    """The two commands that boot @initrd, with what each side is told of its devices."""
    boot = {"kernel": os.path.join(args.guest, "vmlinuz"), "initrd": initrd, "append": "console=ttyS0 quiet panic=-1"}

    def options(dash):
        return [text for name, value in boot.items() for text in (dash + name, value)]

    return {
        "ours": [os.path.join(args.build, "src/cmd/trapeze"), "run", "--engine", args.engine, "--memory", "512M",
                 "--cpus", str(args.cpus)] + ours + options("--"),
        "qemu": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", str(args.cpus), "-m", "512M",
                 "-nographic", "-no-reboot"] + qemu + options("-"),
    }


def make_initrd(args, work, files, programs, modules):
    """An initramfs with @files, name and text, of which /script is run."""
    command = [os.path.join(TOOLS, "make-initramfs"), args.guest, os.path.join(work, "initrd.img")]
    for name, text in files.items():
        path = os.path.join(work, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o755)
        command += ["--file", f"{path}:/{name}"]
    for program in programs:
        command += ["--program", program]
    for module in modules:
        command += ["--module", module]
    subprocess.run(command, check=True)
    return command[2]


def figures(command, limit, pattern, count):
    """What the groups of @pattern say in a run of the guest, @count times."""
    out = subprocess.run(["timeout", "-k", "5", str(limit)] + command, stdin=subprocess.DEVNULL, capture_output=True,
                         check=False).stdout.decode(errors="replace")
    found = re.findall(pattern, out)
    if len(found) != count:
        raise SystemExit(f"{command[0]} gave {len(found)} results, not {count}:\n{out[-1000:]}")
    return found


def ratios(rounds, measure, unit):
    """@measure(side) gives a dictionary of figures of which more is better. Prints ours by QEMU's, and the medians."""
    by_name = {}
    for number in range(rounds):
        order = ["ours", "qemu"] if number % 2 == 0 else ["qemu", "ours"]
        got = {side: measure(side) for side in order}
        for name, figure in got["ours"].items():
            by_name.setdefault(name, []).append((figure, got["qemu"][name]))
    for name, pairs in by_name.items():
        r = [ours / qemu for ours, qemu in pairs]
        medians = [statistics.median(side) for side in zip(*pairs)]
        print(f"{name:24}{statistics.median(r):6.2f} times QEMU's   ({min(r):.2f} to {max(r):.2f}, {len(r)} rounds; "
              f"{medians[0]:.1f} and {medians[1]:.1f} {unit})", flush=True)
