"""What the script of kills counts."""

from benchmarks.kills import written_again


def test_a_part_is_written_again_only_after_its_record_and_before_importance():
    part, record = "PUT /kills/one/part-00003.parquet", "PUT /kills/one/_progress/00003.json"
    assert written_again([part, part, record]) == []  # killed between the part and its record
    assert written_again([part, record, "GET /kills/one/part-00003.parquet", part]) == [part]
    assert written_again([part, record, "PUT /kills/one/part-00004.parquet"]) == []
    assert written_again([part, record, "PUT /kills/one/_next/part-00003.parquet", part]) == []
