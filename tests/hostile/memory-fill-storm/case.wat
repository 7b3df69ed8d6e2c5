;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    (memory (export "memory") 514)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
    (func (export "handle") (param i32) (result i32)
      {{repeat 3000: (memory.fill (i32.const 131072) (i32.const {n}) (i32.const 0x2000000))}}
      (i32.const 8))
  )
  (core instance $m (instantiate $main))
  {{guest}})
