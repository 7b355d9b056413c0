# The worker on a GPU machine: vLLM's own image, with our worker beside it in the same environment.
FROM vllm/vllm-openai:v0.32.0
WORKDIR /src
COPY packages packages
COPY services/worker services/worker
RUN python3 -m pip install --no-cache-dir hatchling \
 && python3 -m pip install --no-cache-dir ./packages/contracts ./packages/policy ./packages/dispatch ./packages/simulator ./packages/runtime ./services/worker \
 && useradd --uid 10001 --create-home autopoiesis \
 && install -d -o autopoiesis -g autopoiesis /home/autopoiesis/.cache /home/autopoiesis/.cache/huggingface
USER autopoiesis
WORKDIR /home/autopoiesis
ENTRYPOINT ["python3", "-m", "autopoiesis.worker"]
