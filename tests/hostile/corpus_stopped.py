"""Programs that verify, and that must be stopped by fuel or a guard before they cost much. Bodies of `route`, as before."""

from textwrap import indent

DAG = "t = (1.5,)\nfor i in range(60):\n    t = (t, t)\n"
DAG_TWICE = DAG + "u = (1.5,)\nfor i in range(60):\n    u = (u, u)\n"
DEEP = "t = ()\nfor i in range(8000):\n    t = (t,)\n"


def _nested(items: str, depth: int) -> str:
    """Loops in loops over `items`."""
    lines = [f"{'    ' * level}for x{level} in {items}:" for level in range(depth)]
    return "\n".join([*lines, "    " * depth + "pass"])


TIME = {
    "nested constant loops": _nested("range(10)", 12),
    "nested constant tables": "T = (1, 2, 3, 4)\ndef route(request, replicas, ctx):\n"
    + indent(_nested("enumerate(T)", 16), "    "),
    "constant loops in a helper": "def route(request, replicas, ctx):\n    for r in range(9):\n        a()\ndef a():\n"
    + indent(_nested("zip((1, 2, 3), (4, 5, 6))", 14), "    "),
    "endless while": "while True:\n    pass",
    "endless while with continue": "while True:\n    continue",
    "endless while in a test": "while len(replicas) >= 0:\n    x = 1",
    "nested loops": "for a in range(1000000):\n    for b in range(1000000):\n        pass",
    "one long loop": "for a in range(10 ** 12):\n    pass",
    "loop over a range beyond the platform": "for a in range(10 ** 30):\n    pass",
    "long comprehension": "x = [0 for a in range(10 ** 8)]",
    "nested comprehension": "x = [0 for a in range(10000) for b in range(10000) if a < 0]",
    "comprehension with a false test": "x = [0 for a in range(10 ** 9) if False]",
    "generator in any": "x = any(False for a in range(10 ** 9))",
    "generator in all": "x = all(True for a in range(10 ** 9))",
    "generator in sum": "x = sum(1 for a in range(10 ** 9))",
    "generator in min": "x = min(a for a in range(10 ** 9))",
    "generator in a nested zip": "x = list(zip((a for a in range(10 ** 9)), (b for b in range(10 ** 9))))",
    "max of a range": "x = max(range(10 ** 9))",
    "min of a range": "x = min(range(10 ** 9))",
    "sum of a range": "x = sum(range(10 ** 9))",
    "any of a range": "x = any(range(0, 1))\nx = all(range(1, 10 ** 9))",
    "sorted range": "x = sorted(range(50000000))",
    "list of a range": "x = list(range(10 ** 9))",
    "tuple of a range": "x = tuple(range(10 ** 9))",
    "set of a range": "x = set(range(10 ** 9))",
    "dict of a zip": "x = dict(zip(range(10 ** 9), range(10 ** 9)))",
    "enumerate of a range": "for i, a in enumerate(range(10 ** 9)):\n    pass",
    "reversed range": "for a in reversed(range(10 ** 9)):\n    pass",
    "float in a range": "x = 1.5 in range(10 ** 9)",
    "label in a range": "x = 'a' in range(10 ** 9)",
    "index in a range": "x = range(10 ** 9).index(1.5)",
    "count in a range": "x = range(10 ** 9).count(1.5)",
    "extend by a range": "x = []\nx.extend(range(10 ** 9))",
    "update by a range": "x = set()\nx.update(range(10 ** 9))",
    "recursion of nested functions by turns": (
        "def f(n):\n    return g(n)\ndef g(n):\n    return f(n)\nreturn f(0)"
    ),
    "recursion through a nested function and its owner": (
        "def route(request, replicas, ctx):\n    def f():\n        return route(request, replicas, ctx)\n    return f()"
    ),
    "nested function with two definitions": (
        "if request.seq >= 0:\n    def f(n):\n        return f(n)\nelse:\n    def f(n):\n        return n\nreturn f(1)"
    ),
    "nested function rebound to a recursive one": (
        "def f(n):\n    return n\nfor f in [lambda n: f(n)]:\n    pass\nreturn f(1)"
    ),
    "nested function in a loop of loops": (
        "def f(n):\n    return [f2(n) for i in range(100)]\ndef f2(n):\n    return [0 for i in range(100)]\n"
        "while True:\n    x = f(1)"
    ),
    "doubling chain of nested helpers": (
        "def f0():\n    return 1\n"
        + "".join(f"def f{i}():\n    return f{i - 1}() + f{i - 1}()\n" for i in range(1, 40))
        + "return f39()"
    ),
    "nested function as a value": (
        "def f(n):\n    return [0 for i in range(1000)]\nd = {1: f}\ng = d[1]\nwhile True:\n    x = g(1)"
    ),
    "recursion": "def f(n):\n    return f(n + 1)\nreturn f(0)",
    "mutual recursion": "def f(n):\n    return g(n)\ndef g(n):\n    return f(n)\nreturn f(0)",
    "exponential recursion": "def f(n):\n    return f(n - 1) + f(n - 1) if n else 1\nreturn f(40)",
    "recursion of a top-level function": (
        "def f(n):\n    return f(n - 1) + f(n - 1) if n else 1\ndef route(request, replicas, ctx):\n    return f(40)"
    ),
    "recursion of route": "return route(request, replicas, ctx)",
    "recursive lambda through a list": "fs = []\nf = lambda g: g(g)\nreturn f(f)",
    "recursion through a key": "def f(x):\n    return min(replicas, key=f)\nreturn f(0)",
    "recursion through sorted": "def f(x):\n    return len(sorted(replicas, key=f))\nreturn f(0)",
    "doubling chain of helpers": (
        "def f0():\n    return 1\n"
        + "".join(f"def f{i}():\n    return f{i - 1}() + f{i - 1}()\n" for i in range(1, 50))
        + "def route(request, replicas, ctx):\n    return f49()"
    ),
    "expensive key": "return sorted(range(1000), key=lambda a: sum(range(100000)))",
    "expensive test of a while": (
        "def f():\n    return sum(range(50)) < 0\ndef route(request, replicas, ctx):\n    while not f():\n        pass"
    ),
    "list that grows while iterated": "x = [1]\nfor a in x:\n    x.append(a)",
    "list extended while iterated": "x = [1]\nfor a in x:\n    x += [a]",
    "list inserted into while iterated": "x = [1]\nfor a in x:\n    x.insert(0, a)",
    "list inserted behind while iterated": "x = [1]\nfor a in x:\n    x.insert(10 ** 6, a)",
    "list grown by a helper": "def grow(x):\n    x.append(1)\ny = [1]\nfor a in y:\n    grow(y)",
    "list grown by a top-level helper": (
        "def grow(x):\n    x.append(1)\ndef route(request, replicas, ctx):\n    y = [1]\n    for a in y:\n        grow(y)"
    ),
    "list grown by an alias": "x = [1]\ny = x\nfor a in x:\n    y.append(a)",
    "list grown through a dict": "d = {1: [1]}\nfor a in d[1]:\n    d[1].append(a)",
    "list grown in a comprehension": "x = [1]\ny = [x.append(a) for a in x]",
    "list grown in a test of a comprehension": "x = [1]\ny = [a for a in x if x.append(a)]",
    "list grown in a dict comprehension": "x = [1]\ny = {0: x.append(a) for a in x}",
    "list grown in a generator": "x = [1]\ny = all(x.append(a) is None for a in x)",
    "list grown by the key of min": "x = [1]\ny = min(x, key=lambda a: 1 if x.append(a) else 2)\nwhile True:\n    pass",
    "list grown while enumerated": "x = [1]\nfor i, a in enumerate(x):\n    x.append(a)",
    "list grown while zipped": "x = [1]\nfor a, b in zip(x, x):\n    x.append(a)",
    "list grown in a nested loop": "x = [1]\nfor a in x:\n    for b in replicas:\n        x.append(a)",
    "list grown by repetition while iterated": "x = [1]\nfor a in x:\n    x *= 2",
    "list grown through a generator": "x = [1]\nfor v in (a for a in x):\n    x.append(v)",
    "list grown through an enumerated generator": "x = [1]\nfor i, v in enumerate(a for a in x):\n    x.append(v)",
    "list grown through two generators": "x = [1]\nfor v in (b for b in (a for a in x)):\n    x.append(v)",
    "list grown through a generator of a fixed and a growing loop": (
        "x = [1]\nfor v in (a for r in replicas for a in x):\n    x.append(v)"
    ),
    "list grown through a generator by a key": (
        "x = [1]\ny = min((a for a in x), key=lambda v: 1 if x.append(v) else 2)\nwhile True:\n    pass"
    ),
    "expensive key by name": (
        "def f(a):\n    return sum(range(10000))\ndef route(request, replicas, ctx):\n    return sorted(range(1000), key=f)"
    ),
    "expensive key by name with containers": (
        "def f(a):\n    return [sum(range(10000))]\ndef route(request, replicas, ctx):\n    return sorted(range(1000), key=f)"
    ),
    "long key by name": (
        "def f(a):\n    return ["
        + "a, " * 500
        + "a]\ndef route(request, replicas, ctx):\n    while True:\n        y = min(replicas, key=f)"
    ),
    "long key of several arguments": (
        "def f(a):\n    return ["
        + "a, " * 500
        + "a]\ndef route(request, replicas, ctx):\n    while True:\n        y = min(1, 2, key=f)"
    ),
    "list grown by a walrus": "x = [1]\nfor a in (y := x):\n    y.append(a)",
    "list grown by a conditional": "x = [1]\nfor a in (x if request.seq >= 0 else replicas):\n    x.append(a)",
    "list swapped in a dict while iterated": "d = {1: 1}\nfor k in d:\n    d.pop(k)\n    d[k + 1] = 1\nwhile True:\n    pass",
    "lists that feed each other": "x = [1]\ny = [1]\nfor a in x:\n    y.append(a)\n    x.extend(y)",
    "dict that grows while iterated": "d = {1: 1}\nfor k in d:\n    d[k + 1] = 1",
    "head of a long list popped": "x = list(range(20000))\nwhile True:\n    x.pop(0)\n    x.append(0)",
    "insert at the head": "x = list(range(20000))\nwhile True:\n    x.insert(0, 0)",
    "membership in a long list": "x = list(range(20000))\nwhile True:\n    y = -1 in x",
    "index in a long list": "x = list(range(20000))\nwhile True:\n    y = x.index(19999)",
    "count in a long list": "x = list(range(20000))\nwhile True:\n    y = x.count(1)",
    "remove from a long list": "x = list(range(20000))\nwhile True:\n    x.remove(19999)\n    x.append(19999)",
    "copy of a long list": "x = list(range(20000))\nwhile True:\n    y = x.copy()",
    "reverse of a long list": "x = list(range(20000))\nwhile True:\n    x.reverse()",
    "sort of a long list": "x = list(range(20000))\nwhile True:\n    x.sort()",
    "slice of a long list": "x = list(range(20000))\nwhile True:\n    y = x[:]",
    "slice backwards": "x = list(range(20000))\nwhile True:\n    y = x[::-1]",
    "comparison of long lists": "x = list(range(10000))\ny = list(range(10000))\nwhile True:\n    z = x == y",
    "negated membership": "x = list(range(20000))\nwhile True:\n    y = -1 not in x",
    "clear and refill": "x = []\nwhile True:\n    x.extend([0] * 1000)\n    x.clear()",
    "update of a dict by itself": "d = dict(zip(range(5000), range(5000)))\nwhile True:\n    d.update(d)",
    "copy of a dict": "d = dict(zip(range(5000), range(5000)))\nwhile True:\n    e = d.copy()",
    "bound method stored in a field name": "x = list(range(20000))\nf = x.count\nwhile True:\n    f(1)",
    "builtin through a parameter": "def f(g):\n    return g(range(10 ** 9))\nreturn f(max)",
    "builtin through a dict": "d = {'f': sum}\nf = d['f']\nreturn f(range(10 ** 9))",
    "sorted as a key": "return min([range(10 ** 9)], key=sorted)",
    "builtin from a conditional": "f = max if request.seq >= 0 else min\nreturn f(range(10 ** 9))",
    "list as a key": "return max([range(10 ** 9), range(5)], key=list)",
}

NUMBERS = {
    "set of integers that share a hash": "m = 2 ** 61 - 1\ns = {i * m for i in range(9000)}\nreturn Assign(0) if 5 in s else HOLD",
    "dict of integers that share a hash": "m = 2 ** 61 - 1\nd = {}\nfor i in range(9000):\n    d[i * m] = i\nreturn Assign(0)",
    "tuples of integers that share a hash": "m = 2 ** 61 - 1\nd = {}\nfor i in range(9000):\n    d[(i * m, 1)] = i\nreturn Assign(0)",
    "misses among integers that share a hash": "m = 2 ** 61 - 1\nd = {i * m: i for i in range(500)}\nn = 0\nwhile True:\n    n += d.get((600 + n) * m, 1)",
    "squaring through a nested helper": "def f(n):\n    return n * n\nx = 3\nwhile True:\n    x = f(x)",
    "squaring through a nested helper's default": (
        "def f(n, m=3):\n    return n * m\nx = 3\nwhile True:\n    x = f(x, m=x)"
    ),
    "squaring through a nested helper as a value": (
        "def f(n):\n    return n * n\nx = f(3)\ng = [f]\nh = g[0]\nwhile True:\n    x = h(x)"
    ),
    "squaring through a nested helper's closure": (
        "x = 3\ndef f():\n    return x * x\nwhile True:\n    x = f()"
    ),
    "squaring through a nested helper of a nested helper": (
        "def f(n):\n    def g(m):\n        return m * n\n    return g(n)\nx = 3\nwhile True:\n    x = f(x)"
    ),
    "squaring through a nested key": (
        "def f(n):\n    return n * n\nx = [3]\nwhile True:\n    x = [min([f(n) for n in x], key=f)]"
    ),
    "digits of round by an alias": "f = round\nreturn f(5, -999999999)",
    "digits of round by an alias and a float": "f = round\nreturn f(5, 1e300)",
    "digits of round by a conditional": "f = round if request.seq >= 0 else abs\nreturn f(5, -999999999)",
    "key of a helper that is no key": (
        "def f(x, key):\n    y = 3\n    while True:\n        y = key(y)\ndef route(request, replicas, ctx):\n"
        "    return f([1], key=lambda v: v * v)"
    ),
    "power of ten": "return 10 ** 10 ** 7",
    "power by a variable": "n = 10 ** 7\nreturn 10 ** n",
    "power builtin": "return pow(10, 10 ** 7)",
    "power in place": "x = 10\nx **= 10 ** 7\nreturn x",
    "power in an item": "d = {0: 10}\nd[0] **= 10 ** 7\nreturn HOLD",
    "squaring": "x = 3\nwhile True:\n    x = x * x",
    "squaring in place": "x = 3\nwhile True:\n    x *= x",
    "squaring in an item": "d = {0: 3}\nwhile True:\n    d[0] *= d[0]",
    "squaring through a helper": "def f(x):\n    return x * x\ny = 3\nwhile True:\n    y = f(y)",
    "squaring of a field": "x = request.seq + 3\nwhile True:\n    x = x * x",
    "squaring in a comprehension": "x = [3]\nwhile True:\n    x = [a * a for a in x]",
    "squaring by a conditional": "x = 3 if request.seq >= 0 else 1.0\nwhile True:\n    x = x * x if x > 0 else 2",
    "doubling": "x = 1\nwhile True:\n    x = x + x",
    "doubling by subtraction": "x = 1\nwhile True:\n    x = x - -x",
    "doubling by a sum": "x = 1\nwhile True:\n    x = sum([x, x])",
    "doubling by a shift": "x = 1\nwhile True:\n    x = x << 1",
    "shift": "return 1 << 10 ** 9",
    "shift in place": "x = 1\nx <<= 10 ** 9\nreturn x",
    "shift by a field": "return 1 << (request.seq + 10 ** 9)",
    "fibonacci": "a, b = 1, 1\nwhile True:\n    a, b = b, a + b",
    "factorial": "x = 1\nfor i in range(1, 5000):\n    x *= i",
    "factorial by a fold": "x = [1]\nfor i in range(1, 5000):\n    x.append(x[-1] * i)",
    "integer of a large float": "x = int(1e308)\nwhile True:\n    x = x * x",
    "floor of a large float": "import math\nX = 1e308\ndef route(request, replicas, ctx):\n    x = math.floor(X)\n    return x * x * x",
    "round of a large float": "x = round(1e308)\nreturn x * x * x",
    "integer of a long text": "x = int('9' + '9' * 4000)\nreturn x",
    "constant of the file": "X = 10 ** 10 ** 7\ndef route(request, replicas, ctx):\n    return X",
    "constant shift": "X = 1 << 10 ** 9\ndef route(request, replicas, ctx):\n    return X",
    "constant repetition": "X = [0] * 10 ** 9\ndef route(request, replicas, ctx):\n    return X",
    "constant text": "X = 'a' * 10 ** 9\ndef route(request, replicas, ctx):\n    return X",
    "squaring by the step of a range": "x = 3\nwhile True:\n    x = range(0, 1, x).step * range(0, 1, x).step",
    "doubling by the step of a range": "x = 3\nwhile True:\n    x = range(0, 1, x).step + range(0, 1, x).step",
    "squaring by the priority of a decision": "x = 3\nwhile True:\n    x = Assign(0, 0, x).priority * Assign(0, 0, x).priority",
    "squaring by the count of an entry": (
        "x = 3\nwhile True:\n    y = [Replicas(0, 'a', 1, x)]\n    x = y[0].count * y[0].count"
    ),
    "negative power tower": "x = 2\nwhile True:\n    x = x ** 2",
    "or of shifted bits": "x = 1\nwhile True:\n    x = (x << 1) | 1",
    "absolute value in a product": "x = -3\nwhile True:\n    x = abs(x) * abs(x)",
    "negation in a product": "x = 3\nwhile True:\n    x = -x * -x",
    "maximum in a product": "x = 3\nwhile True:\n    x = max(x, 1) * max(x, 2)",
    "boolean operator in a product": "x = 3\nwhile True:\n    x = (x or 1) * (x and x)",
    "tuple unpacking in a product": "x, y = 3, 3\nwhile True:\n    x, y = x * y, x",
    "walrus in a product": "x = 3\nwhile (y := x * x) > 0:\n    x = y",
    "closure in a product": "x = 3\nf = lambda a: a * a\nwhile True:\n    x = f(x)",
    "default argument in a product": "def f(a, b=3):\n    return a * b\nx = 3\nwhile True:\n    x = f(x, x)",
    "keyword argument in a product": (
        "def f(a, b=3):\n    return a * b\ndef route(request, replicas, ctx):\n    x = 3\n    while True:\n        x = f(a=x, b=x)"
    ),
    "recursion in a product": (
        "def f(x, n):\n    return f(x * x, n - 1) if n else x\ndef route(request, replicas, ctx):\n    return f(3, 45)"
    ),
    "loop variable in a product": "x = 3\nfor y in [3, 3]:\n    while True:\n        y = y * y",
}

MEMORY = {
    "list repetition": "return [0] * 10 ** 9",
    "list repetition reversed": "return 10 ** 9 * [0]",
    "repetition by a field": "return [0] * (request.max_tokens + 10 ** 9)",
    "repetition in place": "x = [0]\nx *= 10 ** 9",
    "repetition by true": "x = list(range(10000))\nwhile True:\n    y = x * True",
    "text repetition": "return 'a' * 10 ** 9",
    "tuple repetition": "return (0,) * 10 ** 9",
    "list doubling": "x = [0]\nwhile True:\n    x = x + x",
    "list doubling in place": "x = [0]\nwhile True:\n    x += x",
    "list doubling by extend": "x = [0]\nwhile True:\n    x.extend(x)",
    "list doubling in an item": "d = {0: [0]}\nwhile True:\n    d[0] += d[0]",
    "list doubling by repetition": "x = [0]\nwhile True:\n    x = x * 2",
    "text doubling": "x = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'\nwhile True:\n    x = x + x",
    "text doubling in place": "x = 'a'\nwhile True:\n    x += x",
    "tuple doubling": "x = (0,)\nwhile True:\n    x = x + x",
    "append for ever": "x = []\nwhile True:\n    x.append(x)",
    "append of tuples": "x = []\nwhile True:\n    x.append((1.5, 2.5, 3.5, 4.5))",
    "dict for ever": "d = {}\nwhile True:\n    d[len(d)] = 1.5",
    "setdefault for ever": "d = {}\nwhile True:\n    d.setdefault(len(d), [])",
    "set for ever": "s = set()\nwhile True:\n    s.add(len(s))",
    "linked list": "t = ()\nwhile True:\n    t = (t, 1.5)",
    "lists of lists": "x = [[0] * 100 for i in range(10 ** 6)]",
    "nested comprehension of lists": "x = [[0 for j in range(1000)] for i in range(1000)]",
    "slices kept": "x = [0] * 10000\ny = []\nwhile True:\n    y.append(x[:])",
    "sorted kept": "x = [0] * 10000\ny = []\nwhile True:\n    y.append(sorted(x))",
    "copies kept": "x = [0] * 10000\ny = []\nwhile True:\n    y.append(x.copy())",
    "lambdas kept": "x = []\nwhile True:\n    x.append(lambda: x)",
    "decisions kept": "x = []\nwhile True:\n    x.append(Assign(0))",
    "dict literals kept": "x = []\nwhile True:\n    x.append({1: 2, 3: 4})",
    "sets kept": "x = []\nwhile True:\n    x.append({1, 2, 3})",
    "ranges kept": "x = []\nwhile True:\n    x.append(range(len(x)))",
    "big integers kept": "x = []\ny = 1 << 1000\nwhile True:\n    x.append(y + len(x))",
    "result is a bomb": "return [[0] * 1000] * 10 ** 6",
}

STRUCTURE = {
    "shared structure by a key that is none": (
        "def f(x, key):\n    t = (1.5,)\n    for i in range(60):\n        t = (t, t)\n    return key(t)\n"
        "def route(request, replicas, ctx):\n    u = (1.5,)\n    for i in range(60):\n        u = (u, u)\n"
        "    return f(replicas, key=lambda v: v == u)"
    ),
    "comparison of shared structure": DAG_TWICE + "return t == u",
    "order of shared structure": DAG_TWICE + "return t < u",
    "inequality of shared structure": DAG_TWICE + "return t != u",
    "chained comparison of shared structure": DAG_TWICE + "return t == u == t",
    "shared structure as a key": DAG + "return {t: 1}",
    "shared structure as an index": DAG + "d = {}\nreturn d[t]",
    "shared structure stored": DAG + "d = {}\nd[t] = 1",
    "shared structure in get": DAG + "d = {}\nreturn d.get(t)",
    "shared structure in setdefault": DAG + "d = {}\nreturn d.setdefault(t, 1)",
    "shared structure in pop": DAG + "d = {}\nreturn d.pop(t, 1)",
    "shared structure in a set": DAG + "return {t}",
    "shared structure added to a set": DAG + "s = set()\ns.add(t)",
    "shared structure discarded": DAG + "s = set()\ns.discard(t)",
    "shared structure looked up": DAG + "s = {1}\nreturn t in s",
    "shared structure in a list": DAG_TWICE + "return t in [u]",
    "shared structure in index": DAG_TWICE + "return [u].index(t)",
    "shared structure in count": DAG_TWICE + "return [u].count(t)",
    "shared structure in remove": DAG_TWICE + "x = [u]\nx.remove(t)",
    "shared structure in min": DAG_TWICE + "return min(t, u)",
    "shared structure in max of a list": DAG_TWICE + "return max([t, u])",
    "shared structure in sorted": DAG_TWICE + "return sorted([t, u])",
    "shared structure in sort": DAG_TWICE + "x = [t, u]\nx.sort()",
    "shared structure as a sort key": DAG_TWICE + "return sorted([1, 2], key=lambda a: t if a == 1 else u)",
    "shared structure as a min key": DAG_TWICE + "return min([1, 2], key=lambda a: t if a == 1 else u)",
    "shared structure by a dict comprehension": DAG + "return {k: 1 for k in [t]}",
    "shared structure by a set comprehension": DAG + "return {k for k in [t]}",
    "shared structure by dict": DAG + "return dict([(t, 1)])",
    "shared structure by set": DAG + "return set([t])",
    "shared structure in a decision": DAG_TWICE + "return Assign(t) == Assign(u)",
    "shared structure in a decision as a key": DAG + "return {Assign(t): 1}",
    "shared structure called": DAG + "return t(1)",
    "shared structure in an augmented item": DAG + "d = {}\nd[t] += 1",
    "shared lists compared": (
        "t = [1.5]\nfor i in range(60):\n    t = [t, t]\nu = [1.5]\nfor i in range(60):\n    u = [u, u]\nreturn t == u"
    ),
    "shared dicts compared": (
        "t = {1: 1.5}\nfor i in range(60):\n    t = {1: t, 2: t}\n"
        "u = {1: 1.5}\nfor i in range(60):\n    u = {1: u, 2: u}\nreturn t == u"
    ),
    "deep tuple as a key": DEEP + "return {t: 1}",
    "deep tuple in a set": DEEP + "return {t}",
    "deep tuple compared": DEEP + "u = t\nt = (t,)\nreturn t == u",
    "list that holds itself compared": "x = []\nx.append(x)\ny = []\ny.append(y)\nreturn x == y",
    "list that holds itself as an element": "x = []\nx.append(x)\ny = []\ny.append(y)\nreturn x in [y]",
}

FAULTS = {
    "division by zero": "return 1 / request.seq",
    "missing key": "return {}['x']",
    "index out of range": "return replicas[10 ** 6]",
    "attribute of none": "return request.workflow.age",
    "unbound name": "if request.seq > 10 ** 6:\n    x = 1\nreturn x",
    "wrong arguments": "return len(1, 2)",
    "wrong arguments to a helper": "def f(a):\n    return a\nreturn f(1, 2)",
    "number is not iterable": "for x in 5:\n    pass",
    "number is not callable": "f = 5\nreturn f(1)",
    "list is not callable": "f = [1]\nreturn f(1)",
    "unhashable key": "d = {}\nd[[1]] = 2",
    "append to the replicas": "replicas.append(1)",
    "store in the replicas": "replicas[0] = 1",
    "sort the replicas": "replicas.sort()",
    "append to a constant": "X = [1]\ndef route(request, replicas, ctx):\n    X.append(2)\n    return HOLD",
    "append to an alias of a constant": "X = [1]\ndef route(request, replicas, ctx):\n    y = X\n    y.append(2)\n    return HOLD",
    "extend a constant": "X = [1]\ndef route(request, replicas, ctx):\n    y = X\n    y += [2]\n    y.extend([3])",
    "sort a constant": "X = [2, 1]\ndef route(request, replicas, ctx):\n    X.sort()\n    return HOLD",
    "store in a constant dict": "X = {1: 1}\ndef route(request, replicas, ctx):\n    y = X\n    y[1] = 2\n    return HOLD",
    "update a constant dict": "X = {1: 1}\ndef route(request, replicas, ctx):\n    X.update({1: 2})\n    return HOLD",
    "setdefault on a constant dict": "X = {}\ndef route(request, replicas, ctx):\n    return X.setdefault(1, 2)",
    "append inside a constant tuple": "X = ([1],)\ndef route(request, replicas, ctx):\n    X[0].append(2)\n    return HOLD",
    "append inside a constant dict": "X = {1: [1]}\ndef route(request, replicas, ctx):\n    X[1].append(2)\n    return HOLD",
    "add to a constant set": "X = {1}\ndef route(request, replicas, ctx):\n    X.add(2)\n    return HOLD",
    "augmented item of an alias": "X = [1]\ndef route(request, replicas, ctx):\n    y = X\n    y[0] += 1\n    return HOLD",
    "order of a copied set": "s = set(['a', 'b'])\nreturn list(s.copy())[0]",
    "order of a copied constant set": "X = {'a', 'b'}\ndef route(request, replicas, ctx):\n    for x in X.copy():\n        return x",
    "order of a copied frozenset": "s = frozenset(r.gpu for r in replicas)\nx, = s.copy()\nreturn x",
    "set iterated by an alias": "s = set(['a', 'b'])\nfor x in s:\n    return x",
    "set unpacked": "a, b = {1, 2}",
    "set popped": "s = {1, 2}\nreturn s.pop()",
    "set sorted by an alias": "s = {1, 2}\nreturn sorted(s)",
    "set minimum": "s = {1, 2}\nreturn min(s)",
    "set listed by an alias": "s = {1, 2}\nreturn list(s)",
    "set union": "return {1} | {2}",
    "set difference": "return {1} - {2}",
    "set intersection in place": "s = {1}\ns &= {1}",
    "dict union": "return {1: 1} | {2: 2}",
    "text formatting by a variable": "s = '%999999999d'\nreturn s % 1",
    "text formatting in place": "s = '%999999999d'\ns %= 1\nreturn s",
    "index kept as a function": "x = [1]\nf = x.index\nreturn f(1)",
    "assign is not a number": "return Assign(0) * 2",
}

NONSENSE = {
    "nothing": "pass",
    "none": "return None",
    "number": "return 0",
    "label": "return 'HOLD'",
    "list": "return [Assign(0)]",
    "view": "return replicas[0]",
    "function": "return route",
    "index too large": "return Assign(10 ** 6)",
    "index negative": "return Assign(-1)",
    "index as a float": "return Assign(0.0)",
    "index as a bool": "return Assign(True)",
    "index as none": "return Assign(None)",
    "index not a number": "import math\ndef route(request, replicas, ctx):\n    return Assign(math.nan)",
    "index a replica": "return Assign(replicas[0])",
    "index huge": "return Assign(2 ** 1000)",
    "index a container": "return Assign([0])",
    "decode out of range": "return Assign(0, 10 ** 6)",
    "decode a float": "return Assign(0, decode=1.0)",
    "priority too large": "return Assign(0, priority=2 ** 40)",
    "priority a float": "return Assign(0, priority=0.5)",
    "plan entry": "return Replicas(0, 'H100', 1, 1)",
}

STOPPED = {"time": TIME, "numbers": NUMBERS, "memory": MEMORY, "structure": STRUCTURE}
