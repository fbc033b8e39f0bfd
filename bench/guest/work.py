"""A little of all that Python programs do: dictionaries, strings, classes, big integers, floats, generators."""
import hashlib
import json
import re
import sys


class Account:
    def __init__(self, name):
        self.name = name
        self.total = 0

    def add(self, amount):
        self.total = (self.total * 31 + amount) % 1000003
        return self


def primes(limit):
    sieve = bytearray([1]) * limit
    for n in range(2, limit):
        if sieve[n]:
            yield n
            sieve[n * n::n] = bytes(len(range(n * n, limit, n)))


def main():
    digest = hashlib.md5()
    accounts = {}
    for turn in range(int(sys.argv[1])):
        words = [f"w{(turn * 7919 + i * 104729) % 997}" for i in range(300)]
        for i, word in enumerate(words):
            accounts.setdefault(word, Account(word)).add(i)
        text = json.dumps({w: [a.total, a.total / 7] for w, a in sorted(accounts.items())[:40]})
        digest.update(text.encode())
        digest.update(str(sum(len(m) for m in re.findall(r"w\d*7", text))).encode())
        digest.update(str(sum(primes(600)) * 3 ** (turn % 200)).encode())
        digest.update(repr(sum(x * 0.5 for x in range(turn, turn + 200))).encode())
        assert json.loads(text)
    print(digest.hexdigest())


main()
