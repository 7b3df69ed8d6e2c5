;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (func (export "handle") (param i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 1))
      (i32.store (i32.const 1044) (i32.const 0x80000000))
      (i32.const 1024))
  )
  (core instance $m (instantiate $main))
  {{guest}})
