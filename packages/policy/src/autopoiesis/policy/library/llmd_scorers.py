"""llm-d's weighted scorers: cached prefix, queue and cache use, each between 0 and 1; the highest sum wins.

Source: the request scheduler of the llm-d router, with its default weights: prefix 3, queue 2, KV cache use 2.
"""

API = 1

PREFIX = 3.0
QUEUE = 2.0
CACHE = 2.0


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    longest = max(r.waiting for r in replicas)
    shortest = min(r.waiting for r in replicas)
    spread = longest - shortest

    def score(r):
        prefix = min(1.0, r.prefix_hit_tokens / max(request.prompt_tokens, 1))
        queue = (longest - r.waiting) / spread if spread else 1.0
        free = 1.0 - r.kv_used_tokens / max(r.kv_capacity_tokens, 1)
        return PREFIX * prefix + QUEUE * queue + CACHE * free

    count = len(replicas)
    return Assign(max(replicas, key=lambda r: (score(r), (request.seq - r.index) % count)).index)
