"""The REST face: FastAPI in front of Triton's gRPC. No torch, no network and no decoding happens in this process."""
