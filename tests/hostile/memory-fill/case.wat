;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (func (export "handle") (param i32) (result i32)
      (memory.fill (i32.const 0) (i32.const 1) (i32.const 0xffffffff)) (i32.const 8))
  )
  (core instance $m (instantiate $main))
  {{guest}})
