"""The formats of `luss export`, one module each. A module has the function

    def export(request: ExportRequest) -> str

which writes `request.out` and returns one sentence for the screen. It wires files of a run to `luss.export`.
"""
