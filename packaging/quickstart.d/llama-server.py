"""Serves one model file with the real llama.cpp server, in this process, on the loopback interface.

    llama-server.py --model FILE [--alias NAME] [--port 0] --address-file FILE

It loads the model, writes the address that it listens on (http://127.0.0.1:PORT) to the address file in one step, and
serves until it is terminated. One thread: on a machine that others use, two threads that wait for each other are slower
than one. The package is xllamacpp of PyPI, which carries llama.cpp's server as a library.
"""

import argparse
import os
import signal
import sys


def parameters(arguments, xllamacpp):
    """The server's parameters: small, deterministic, local, no page for browsers."""
    wanted = xllamacpp.CommonParams()
    wanted.model.path = arguments.model
    wanted.model_alias = {arguments.alias}
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = arguments.port
    wanted.n_ctx = arguments.context
    wanted.n_parallel = 1
    wanted.n_threads_http = 2
    wanted.cpuparams.n_threads = 1
    wanted.cpuparams_batch.n_threads = 1
    wanted.ui = False
    wanted.use_jinja = True
    wanted.verbosity = 0
    return wanted


def main():
    """Parses, serves, and waits for the signal that ends it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--alias", default="smollm2", help="the name that clients ask for")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context")
    parser.add_argument("--address-file", required=True, help="where to write the address once it answers")
    arguments = parser.parse_args()

    # Blocked before the server's threads exist, so that they inherit it and the signal is ours alone to take.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    import xllamacpp

    server = xllamacpp.Server(parameters(arguments, xllamacpp))
    partial = arguments.address_file + ".new"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(server.listening_address + "\n")
    os.replace(partial, arguments.address_file)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # The library's own shutdown waits for idle connections of clients; nothing here is worth waiting for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
