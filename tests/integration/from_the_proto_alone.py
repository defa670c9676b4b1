"""A client that knows nothing but the .proto files: no seqserve, no numpy.

    python from_the_proto_alone.py PROTO_FOLDER ADDRESS MODEL < request.json > answers.json

Reads {"sequences": [[[number, …] a step, …], …]} and prints {"logits": hex, "labels": […]}.
"""

import importlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import grpc
from grpc_tools import protoc


def main() -> None:
    protos, address, model = sys.argv[1:]
    sequences = json.load(sys.stdin)["sequences"]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(path) for path in Path(protos).glob("seqserve/v1/*.proto")]
        well_known = str(Path(protoc.__file__).parent / "_proto")
        outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        assert protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", *outputs, *files]) == 0
        sys.path.insert(0, folder)
        pb = importlib.import_module("seqserve.v1.classifier_pb2")
        services = importlib.import_module("seqserve.v1.classifier_pb2_grpc")
        request = pb.ClassifyRequest(model_name=model)
        for sequence in sequences:
            request.sequences.lengths.append(len(sequence))
            for step in sequence:
                request.sequences.values += struct.pack(f"<{len(step)}f", *step)
        with grpc.insecure_channel(address) as channel:
            response = services.SequenceClassifierStub(channel).Classify(request, timeout=60)
        answers = {
            "logits": response.answers.logits.hex(),
            "labels": list(response.answers.labels),
        }
        json.dump(answers, sys.stdout)


main()
