"""A worker that lives and does nothing."""

import time


def work(connection, config, folder, masking, device, threads, beat_s):
    connection.send(("ready", {"name": "torch", "version": "0", "dtype": "float32", "device": "cpu"}))
    while True:
        connection.send(("alive", None))
        time.sleep(beat_s)
