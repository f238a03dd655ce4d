"""Parts of the processors' time, from the output of perf-script(1)."""

from bench.kernel_data_path import parts

SCRIPT = """\
        python3  ovs_flow_tbl_lookup_stats ([openvswitch])
        python3  _PyEval_EvalFrameDefault (/usr/bin/python3.11)
    ksoftirqd/1  masked_flow_lookup ([openvswitch])
        swapper  default_idle ([kernel.kallsyms])
        swapper  nf_conntrack_in ([nf_conntrack])
"""


def test_parts_are_those_of_busy_time() -> None:
    found = parts(SCRIPT)
    assert found["modules"] == {"[openvswitch]": 50.0, "python3.11": 25.0, "[nf_conntrack]": 25.0}
    assert found["functions"]["masked_flow_lookup [openvswitch]"] == 25.0
