;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    {{repeat 7: (memory $m{n} 0)}}
    (func (export "handle") (param i32) (result i32)
      {{repeat 7: (block (loop (br_if 1 (i32.eq (memory.grow $m{n} (i32.const 1)) (i32.const -1)))
        (br_if 1 (i32.ge_u (memory.size $m{n}) (i32.const 48))) (br 0)))}}
      unreachable)
  )
  (core instance $m (instantiate $main))
  {{guest}})
