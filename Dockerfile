# winning-tickets as an image, whose command is `tickets`.
#
#   docker build -t winning-tickets .                                        torch of pip's own index: on Linux with CUDA
#   docker build -t winning-tickets:cpu --build-arg TORCH_INDEX=INDEX .      torch of the CPU index that pytorch.org names
#   docker run --rm -v $PWD:/work winning-tickets:cpu demo --out my-demo
#   docker run --rm --gpus all -v $PWD:/work winning-tickets search bert-base-uncased ...
FROM python:3.11-slim

ARG TORCH=2.13.0
ARG TORCH_INDEX=
RUN pip install --no-cache-dir "torch==${TORCH}" ${TORCH_INDEX:+--index-url ${TORCH_INDEX}}

COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[demo,onnx]" && rm -rf /src

# Models, tokens and results are written as the user of `docker run --user`, below /work.
ENV HF_HOME=/work/.cache/huggingface WINNING_TICKETS_CACHE=/work/.cache/winning-tickets
WORKDIR /work
ENTRYPOINT ["tickets"]
CMD ["--help"]
