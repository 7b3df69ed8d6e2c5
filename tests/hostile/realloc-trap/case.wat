;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "handle") (param i32) (result i32) (i32.const 8))
  )
  (core instance $m (instantiate $main))
  {{guest}})
