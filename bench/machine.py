"""Talks to the agent of bench/guest/main.c, in a virtual machine or on the bare processor."""
import queue
import re
import subprocess
import threading
import time


class Dead(Exception):
    pass


class Machine:
    """A process whose standard input and output are the agent's, be it in a virtual machine or not."""

    def __init__(self, command, log, cpu_time=False):
        self.cpu_time = cpu_time
        self.native = command[0] == "unshare"
        self.log = open(log, "ab")
        self.log.write(f"\n=== {' '.join(command)}\n".encode())
        self.log.flush()
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put((time.monotonic(), self.cpu_seconds(), line.decode(errors="replace").strip()))
        self.lines.put((time.monotonic(), 0, None))

    def cpu_seconds(self):
        """What all threads of the process have taken of the processors so far."""
        try:
            return time.clock_gettime(~self.process.pid << 3 | 2)  # clock_getcpuclockid(3)
        except OSError:
            return 0

    def wait_line(self, pattern, timeout):
        """The time at which a line that matches came, the processor time until then, and the match."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                when, cpu, line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise Dead(f"nothing for {timeout} s") from None
            if line is None:
                raise Dead(f"ended with status {self.process.wait()}")
            self.log.write(line.encode() + b"\n")
            self.log.flush()
            if match := re.search(pattern, line):
                return when, cpu, match

    def wait_ready(self):
        self.wait_line(r"@ready$", 120)

    def run_item(self, name, percent, timeout):
        """What the item took by our clock and by the guest's, and its checksum; or why there is none."""
        self.process.stdin.write(f"{name} {percent}\n".encode())
        self.process.stdin.flush()
        start = cpu_start = result = None
        while True:
            when, cpu, m = self.wait_line(r"@(start|end|skip|fail|done)\b ?(.*)", timeout)
            if m[1] == "start":
                start, cpu_start = when, cpu
            elif m[1] == "end":
                _, checksum, nanoseconds, of_cpu = m[2].split()
                cpu_seconds = int(of_cpu) / 1e9 if self.native else cpu - cpu_start
                result = {"wall": when - start, "cpu": cpu_seconds, "guest": int(nanoseconds) / 1e9, "sum": checksum}
                result["seconds"] = max(result["cpu" if self.cpu_time else "wall"], 1e-6)
            elif m[1] == "done":
                return result or {"error": "ended without a result"}
            else:
                result = {m[1]: m[2]}

    def quit(self):
        try:
            self.process.stdin.write(b"quit\n")
            self.process.stdin.flush()
            self.process.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.log.close()

    def overhead(self, ram):
        """Bytes that the process holds beyond the guest's RAM: each page counted once however often mapped."""
        total = 0
        guest = False
        with open(f"/proc/{self.process.pid}/smaps") as f:
            for line in f:
                if m := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                    size = int(m[2], 16) - int(m[1], 16)
                    guest = "memfd:trapeze-ram" in line or size >= ram // 2
                elif line.startswith("Pss:") and not guest:
                    total += int(line.split()[1]) * 1024
        return total
