"""Walks the tour of README.md.

    tour.py BASE_PORT SCRATCH

What is run, in order:

- ```console             each `$ command` in one shell; what it prints is compared with the lines below it. A line `...` stands for any lines.
- ```console background  one command that goes on until the next such block, or the end, stops it with Ctrl-C.
- ```sh grpcurl          each line, by grpcurl, or by buf in its place where grpcurl is not installed; what it prints is not compared.
- ```rust                must be the text of sdk/examples/hello.rs without the comment and the attribute on top.

Times, durations, versions, terms, spaces, who leads at the moment, and which replicas had stored a publish may differ. With a base port other
than 8000 the ports are changed in what is run and changed back in what is compared.
"""

import itertools
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

PAGE = "README.md"
PAGE_PORT = 8000
PEERS = 8
BACKGROUND_SECONDS_MAX = 120
COMMAND_SECONDS_MAX = 900
# What the command line adds when the owner does not lead.
NOTE = r"(owner [01]+ does not lead|cannot reach owner [01]+); served by replica [01]+$"
BUF = "buf curl --protocol grpc --http2-prior-knowledge"
# What may differ from run to run, and what stands for it.
VARIABLE = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\b\d+(\.\d+)? ?(ms|µs|us|s|m|min)\b", "DURATION"),
    (r"\b\d+\.\d+\.\d+$", "VERSION"),
    (r"stored by [01, ]+", "stored by REPLICAS"),
    (r"led by [01]+ at \S+ in term \d+", "led by LEADER"),
    (r"\b(leader|follower|candidate|learner)\s+\S+", "STATE LAG"),
    (r'"servedBy": "[01]+"', '"servedBy": "REPLICA"'),
    (r"\s+", " "),
]


class Ports:
    def __init__(self, base):
        self.base = base

    def to_run(self, text):
        return self._shift(text, PAGE_PORT, self.base)

    def to_page(self, text):
        return self._shift(text, self.base, PAGE_PORT)

    @staticmethod
    def _shift(text, old, new):
        ports = "|".join(str(old + peer) for peer in range(PEERS))
        return re.sub(rf"(?<=127\.0\.0\.1:)({ports})\b", lambda match: str(int(match[1]) - old + new), text)


def blocks(text):
    """The fenced blocks of a page: the words after the fence, and the lines."""
    words, lines = None, []
    for line in text.splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif words is None:
            words, lines = line[3:].strip(), []
        else:
            yield words, lines
            words = None


def steps(lines):
    """Commands of a console block with the lines that they are to print."""
    found = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def plain(line):
    for pattern, name in VARIABLE:
        line = re.sub(pattern, name, line)
    return line.strip()


def matches(shown, printed):
    """Whether the lines are those shown; `...` stands for any number of them."""
    if not shown:
        return not printed
    if shown[0].strip() == "...":
        return any(matches(shown[1:], printed[count:]) for count in range(len(printed) + 1))
    return bool(printed) and plain(shown[0]) == plain(printed[0]) and matches(shown[1:], printed[1:])


def complain(command, shown, printed):
    sys.exit("\n".join([f"tour: {PAGE} does not tell what this prints:", f"$ {command}", *printed, "", "It says:", *shown]))


class Shell:
    """One shell for all commands, as a reader has it."""

    def __init__(self, ports, environment, programs):
        self.ports, self.programs, self.count = ports, programs, 0
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def run(self, command):
        """The exit code, and the lines that it printed."""
        self.count += 1
        end = f"end-of-step-{self.count}"
        # What the page puts before the programs at hand in PATH comes after them.
        script = f'{{ {self.ports.to_run(command)}\n}} < /dev/null\necho "{end} $?"\nPATH="{self.programs}:$PATH"\n'
        self.process.stdin.write(script)
        self.process.stdin.flush()
        watchdog = threading.Timer(COMMAND_SECONDS_MAX, self.process.kill)
        watchdog.start()
        printed = []
        for line in self.process.stdout:
            line = self.ports.to_page(line.rstrip("\n"))
            if line.startswith(end):
                watchdog.cancel()
                return int(line.split()[1]), printed
            if not re.match(NOTE, line):
                printed.append(line)
        sys.exit(f"tour: the shell ended in: {command}\n" + "\n".join(printed))


class Background:
    """A command that goes on."""

    def __init__(self, command, shown, ports, environment, data):
        self.command = command
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.lines = []
        reader = threading.Thread(target=self.read, args=(ports, data), daemon=True)
        reader.start()
        deadline = time.monotonic() + BACKGROUND_SECONDS_MAX
        while not matches(shown, list(self.lines)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                complain(command, shown, self.lines)
            time.sleep(0.05)

    def read(self, ports, data):
        for line in self.process.stdout:
            self.lines.append(ports.to_page(line.rstrip("\n")).replace(data, "./cubecast-data"))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        if self.process.wait(timeout=60) != 0:
            sys.exit(f"tour: {self.command} ended with {self.process.returncode}\n" + "\n".join(self.lines))


def with_buf(command):
    """A line for grpcurl as buf understands it."""
    words = shlex.split(command)
    assert words[:2] == ["grpcurl", "-plaintext"], command
    data = ["-d", words[words.index("-d") + 1]] if "-d" in words else []
    address, call = words[-2:]
    if call == "list":
        return f"{BUF} --list-services http://{address}"
    return f"{BUF} {shlex.join(data)} http://{address}/{call}"


class Tour:
    def __init__(self, base, scratch):
        self.ports = Ports(base)
        self.data = f"{scratch}/data"
        self.environment = {**os.environ, "CUBECAST_DATA_DIR": self.data, "PATH": f"{scratch}/bin:{os.environ['PATH']}"}
        if base != PAGE_PORT:
            peers = [f"http://127.0.0.1:{base + peer}" for peer in range(PEERS)]
            self.environment |= {"CUBECAST_BASE_PORT": str(base), "CUBECAST_ADDRESS": ",".join(peers)}
        self.shell = Shell(self.ports, self.environment, f"{scratch}/bin")
        self.background, self.count = None, 0

    def walk(self, page):
        walks = {
            "console": self.console,
            "console background": self.start,
            "sh grpcurl": self.grpcurl,
            "rust": self.rust,
        }
        try:
            for words, lines in blocks(page):
                walks.get(words, lambda _: None)(lines)
        finally:
            self.stop()

    def console(self, lines):
        for command, shown in steps(lines):
            code, printed = self.shell.run(command)
            is_error = any(re.match(r'error:|\s*"code":', line) for line in shown)
            if not matches(shown, printed) or (code != 0) != is_error:
                complain(command, shown, [*printed, f"(exit code {code})"])
            self.count += 1

    def start(self, lines):
        self.stop()
        [(command, shown)] = steps(lines)
        self.background = Background(command, shown, self.ports, self.environment, self.data)
        self.count += 1

    def stop(self):
        if self.background is not None:
            background, self.background = self.background, None
            background.stop()

    def grpcurl(self, lines):
        has_grpcurl = shutil.which("grpcurl") is not None
        for line in lines:
            code, printed = self.shell.run(line if has_grpcurl else with_buf(line))
            if code != 0 or not printed:
                complain(line, ["an answer"], [*printed, f"(exit code {code})"])
            self.count += 1

    def rust(self, lines):
        text = pathlib.Path("sdk/examples/hello.rs").read_text().splitlines()
        program = list(itertools.dropwhile(lambda line: line.startswith(("//!", "#!")) or not line, text))
        if program != lines:
            complain("cat sdk/examples/hello.rs", lines, program)


def main():
    tour = Tour(int(sys.argv[1]), sys.argv[2])
    tour.walk(pathlib.Path(PAGE).read_text())
    if tour.count < 20:
        sys.exit(f"tour: only {tour.count} commands were found")
    print(f"tour: {tour.count} commands of {PAGE} print what it says")


main()
