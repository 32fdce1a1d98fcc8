# SegMamba as a container that segments: docs/how-to/container.md.
#
#   docker build --build-arg MODEL=Results/SegMamba_Run01 -t segmamba .
#   docker build --build-arg MODEL=Results/SegMamba_Run01 --build-arg DEVICE=cuda -t segmamba-cuda .
#
# MODEL   a run's folder, or a folder of several, below this one: it becomes the image's model.
# DEVICE  cpu, or cuda: torch with the CUDA libraries that it was built with (NVIDIA's driver and
#         container toolkit are the host's), and the C compiler that Triton needs for GPU kernels.
# BASE    what the image is built on: Debian or Ubuntu, with a Python of 3.10 to 3.13 or none; for
#         CUDA also, for example, nvidia/cuda:13.0.2-base-ubuntu24.04.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS built
ARG DEVICE=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && (command -v python3 || apt-get install -y --no-install-recommends python3 python3-venv) \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --copies /opt/segmamba/venv
ENV PATH=/opt/segmamba/venv/bin:${PATH}
WORKDIR /build
COPY requirements/ requirements/
# The versions and hashes of requirements/; torch for a CPU comes from PyTorch's own index.
RUN if [ "${DEVICE}" = cuda ]; then \
      pip install --require-hashes --no-deps -r requirements/torch.txt; \
    else \
      pip install --no-deps --index-url "${TORCH_INDEX}" \
        "$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements/torch.txt)"; \
    fi \
 && pip install --require-hashes --no-deps -r requirements/predict.txt
COPY pyproject.toml README.md LICENSE ./
COPY segmamba/ segmamba/
COPY search_spaces/ search_spaces/
RUN pip install --no-deps --no-build-isolation . \
 && python -m segmamba.models.cpu_build /opt/segmamba/kernels \
 && python -m compileall -q /opt/segmamba/venv

FROM ${BASE}
ARG DEVICE=cpu
ARG MODEL
ENV DEBIAN_FRONTEND=noninteractive
RUN if [ "${DEVICE}" = cuda ]; then wanted="gcc libc6-dev"; fi; \
    command -v python3 || wanted="${wanted} python3"; \
    if [ -n "${wanted}" ]; then \
      apt-get update && apt-get install -y --no-install-recommends ${wanted} \
      && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=built /opt/segmamba /opt/segmamba
COPY ${MODEL} /opt/segmamba/model
ENV PATH=/opt/segmamba/venv/bin:${PATH}
ENV SEGMAMBA_CPU_LIBRARIES=/opt/segmamba/kernels
ENV SEGMAMBA_MODEL=/opt/segmamba/model
ENV PYTHONDONTWRITEBYTECODE=1
ENV PYTHONUNBUFFERED=1
ENV NVIDIA_VISIBLE_DEVICES=all
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Fails here, not at the challenge, where the model or the kernels are not whole.
RUN python3 -c "from segmamba.models.cpu_library import find_library; print(find_library())" \
 && python3 -c "from segmamba.orchestration.tracking.model_folder import load_folder; \
print(load_folder('/opt/segmamba/model', 'cpu').summary)"
USER 65534:65534
WORKDIR /
ENTRYPOINT ["segmamba"]
CMD ["challenge"]
