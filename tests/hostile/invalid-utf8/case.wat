;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (data (i32.const 2048) "\ff\fe\c0\80")
    (func (export "handle") (param i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 1))
      (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const 4))
      (i32.const 1024))
  )
  (core instance $m (instantiate $main))
  {{guest}})
