"""What tests of separate prefill and decode route with, simulated and on a real vLLM."""

TO_PREFILL = '''"""Prompts to the replicas that compute prompts."""
API = 1

def route(request, replicas, ctx):
    return Assign(max(replicas, key=lambda replica: replica.role == "prefill").index)

def prioritize(request, ctx):
    return request.arrival
'''
