"""vLLM in a process of its own: `python -m autopoiesis.worker.engines.vllm`, started by `engines.process`.

Only this package imports vLLM. It runs under whatever Python has it (`vllm.python`) and needs of ours only
`autopoiesis.contracts`, `autopoiesis.runtime.servers` and the worker.
"""
