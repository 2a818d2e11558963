"""The other end of `lab.Worker`: reads questions from stdin, one JSON line each, and answers on what stdout was at the start.

Runs in the peers' environments, so it may import nothing but the standard library before the rig's module.
"""

import importlib
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints must not end up among the answers


def memory(field):
    """VmRSS, resident memory now, or VmHWM, its peak since `forget_peak`, in MB."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(field)]
    return int(line.split()[1]) / 1024


def forget_peak():
    """The peak begins anew at what is resident now, so that what loading the data took is not counted."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def build(question):
    import torch

    torch.set_num_threads(question["threads"])
    return importlib.import_module(question["module"]).build(question["name"], **question["settings"])


def main():
    rig, base = None, 0.0
    for line in sys.stdin:
        question = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        if rig is None:
            rig = build(question)
            forget_peak()
            value, base = rig.version, memory("VmRSS")
        else:
            value = getattr(rig, question["method"])(**question["arguments"])
        taken = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        answers.write(json.dumps({"value": value, "peak_mb": memory("VmHWM") - base, **taken}) + "\n")
        answers.flush()


main()
