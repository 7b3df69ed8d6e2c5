;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    (memory (export "memory") 64)
    (global $at (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
    (func (export "handle") (param i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 1))
      (memory.fill (i32.const 1048576) (i32.const 97) (i32.const 1048576))
      (i32.store (i32.const 1040) (i32.const 1048576)) (i32.store (i32.const 1044) (i32.const 1048576))
      (i32.const 1024))
  )
  (core instance $m (instantiate $main))
  {{guest}})
