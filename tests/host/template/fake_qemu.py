"""A program in the place of QEMU: it acts as a template, or as a machine that starts from one.

`argv[1]` is a directory: of the file `behaviour`, and of the files `words` and `requests` that this
program writes. The remaining words are QEMU's command line. The descriptors of the console, the
control port and QMP are found in it, as QEMU finds them.
"""

import array
import json
import os
import re
import socket
import sys
import time

STATE = b"state of the devices"
LATER = 60.0  # seconds


class Qemu:
    def __init__(self, folder: str, words: list[str]) -> None:
        self.folder, self.words = folder, words
        with open(f"{folder}/behaviour", encoding="utf-8") as file:
            self.behaviour = file.read()
        with open(f"{folder}/words", "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(words)}\n")
        self.monitor = self.chardev("qmp")
        self.state = -1

    def chardev(self, name: str) -> socket.socket:
        (number,) = [
            int(match[1])
            for word in self.words
            if (match := re.match(rf"socket,id={name},fd=(\d+)", word))
        ]
        return socket.socket(fileno=number)

    def run(self) -> int:
        if self.behaviour == "exit at once":
            os.write(2, b"no such device\n")
            return 1
        if self.behaviour == "end after virtiofsd":
            self.chardev("share0").recv(1)
            return 1
        if self.behaviour == "hang while booting":
            time.sleep(LATER)
        if "-incoming" not in self.words:
            answer = {"refuse": b"refused no driver\n", "power off": b""}.get(self.behaviour)
            self.chardev("initrd.control").sendall(b"template\n" if answer is None else answer)
            if answer == b"":
                return 0
            path = next(word for word in self.words if "mem-path" in word).split("mem-path=")[1]
            with open(path.split(",")[0], "r+b") as memory:
                memory.write(b"memory of the template")
        self.serve()
        return 0

    def serve(self) -> None:
        self.send({"QMP": {}})
        pending = b""
        while True:
            data, rights, _, _ = self.monitor.recvmsg(1 << 16, 1000)
            for _, _, content in rights:
                self.state = array.array("i", content)[0]
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self.handle(json.loads(line))

    def handle(self, request: dict[str, object]) -> None:
        with open(f"{self.folder}/requests", "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(request)}\n")
        if request["execute"] == self.behaviour.removeprefix("error in "):
            self.send({"error": {"class": "GenericError", "desc": "it is not possible"}})
            return
        self.send({"return": {}})
        if request["execute"] == "migrate":
            self.migrate(b"" if self.behaviour == "no state" else STATE)
        elif request["execute"] == "migrate-incoming":
            uri = request["arguments"]["uri"]
            self.load(int(uri.removeprefix("fd:")))

    def migrate(self, state: bytes) -> None:
        if self.behaviour == "end while saving":
            os._exit(1)
        if self.behaviour == "hang while saving":
            time.sleep(LATER)
        os.write(self.state, state)
        os.close(self.state)
        self.report("failed" if self.behaviour == "saving fails" else "completed")

    def load(self, descriptor: int) -> None:
        if self.behaviour == "hang before loading":
            time.sleep(LATER)
        with socket.socket(fileno=descriptor) as connection:
            state = b""
            while piece := connection.recv(1 << 16):
                state += piece
        if self.behaviour == "hang while loading":
            time.sleep(LATER)
        if state != STATE or self.behaviour == "end while loading":
            os.write(2, b"load of migration failed\n")
            os._exit(1)
        self.report("failed" if self.behaviour == "loading fails" else "completed")

    def report(self, status: str) -> None:
        self.send({"event": "MIGRATION", "data": {"status": "active"}})
        self.send({"event": "MIGRATION", "data": {"status": status}})

    def send(self, message: dict[str, object]) -> None:
        self.monitor.sendall(json.dumps(message).encode() + b"\r\n")


if __name__ == "__main__":
    sys.exit(Qemu(sys.argv[1], sys.argv[2:]).run())
