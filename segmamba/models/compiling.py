"""What torch.compile must know of our functions, told without importing the compiler, which takes a second of every start that compiles nothing."""


def constant_result(function):
    """Marks a function that torch.compile calls once, as it traces, and whose result it takes for granted.

    Sets what `torch.compiler.assume_constant_result` sets and nothing else (a test compares them).
    """
    function._dynamo_marked_constant = True
    return function
